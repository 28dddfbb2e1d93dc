//! Which characters may stand in the texts of an envelope.

/// Most characters of `id` and `collapseKey`.
pub const TEXT_CHARACTERS_MAX: usize = 128;

/// True for 1 to 128 printable characters, what `id`, `Nats-Msg-Id` and `collapseKey` may be.
pub fn is_message_id(text: &str) -> bool {
    is_printable_text(text, TEXT_CHARACTERS_MAX)
}

/// True for 1 to `characters_max` printable characters; a space is one.
pub(super) fn is_printable_text(text: &str, characters_max: usize) -> bool {
    // A character has at most four bytes: longer text need not be counted.
    !text.is_empty()
        && text.len() <= 4 * characters_max
        && text.chars().count() <= characters_max
        && text.chars().all(is_printable)
}

/// True for characters that are seen, and for spaces. Not printable are controls, line and
/// paragraph separators, invisible format characters (Unicode 16, general category Cf), private
/// ones and those that Unicode never assigns: in a key of Redis or a line of a log they would
/// hide or forge something.
pub(super) fn is_printable(character: char) -> bool {
    if character.is_ascii() {
        return !character.is_ascii_control();
    }
    let code = u32::from(character);
    let is_format = matches!(
        code,
        0xAD | 0x600..=0x605
            | 0x61C
            | 0x6DD
            | 0x70F
            | 0x890..=0x891
            | 0x8E2
            | 0x180E
            | 0x200B..=0x200F
            | 0x202A..=0x202E
            | 0x2060..=0x206F
            | 0xFEFF
            | 0xFFF0..=0xFFFB
            | 0x110BD
            | 0x110CD
            | 0x13430..=0x1343F
            | 0x1BCA0..=0x1BCA3
            | 0x1D173..=0x1D17A
            | 0xE0000..=0xE0FFF
    );
    let is_separator = matches!(code, 0x2028 | 0x2029);
    let is_private = matches!(code, 0xE000..=0xF8FF | 0xF_0000..);
    let is_never_assigned = matches!(code, 0xFDD0..=0xFDEF) || code & 0xFFFE == 0xFFFE;
    !(character.is_control() || is_format || is_separator || is_private || is_never_assigned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_id_is_one_to_128_printable_characters() {
        for good in [
            "a",
            "0",
            "a b",
            "é",
            "消息",
            "😀",
            "a\"b\\{}",
            &"é".repeat(128),
        ] {
            assert!(is_message_id(good), "{good}");
        }
        for bad in [
            "",
            "\n",
            "a\r\nb",
            "\0",
            "\u{7f}",
            "\u{85}",
            "a\u{200b}",
            "\u{feff}a",
            "\u{2028}",
            "\u{202e}",
            "\u{e000}",
            "\u{fffe}",
            "\u{10ffff}",
            "\u{e0041}",
        ] {
            assert!(!is_message_id(bad), "{bad:?}");
        }
        assert!(!is_message_id(&"a".repeat(129)));
        assert!(!is_message_id(&"😀".repeat(129)));
    }
}
