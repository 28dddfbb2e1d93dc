//! Frames and messages (RFC 6455 §5 and §8.1), and the contract's sizes.

use super::Back::{Answer, Fault, Serves};
use super::{GOOD, assert_table, case};
use crate::support::wire::{
    BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, TEXT, close, frame, frame_with_long_length,
    frame_with_short_length,
};

/// Most bytes of one message from a client (contract §4).
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// A good message of so many bytes.
fn padded(bytes: usize) -> Vec<u8> {
    [vec![b' '; bytes - GOOD.len()], GOOD.to_vec()].concat()
}

/// A message in pieces of so many bytes.
fn fragments(message: &[u8], bytes: usize) -> Vec<Vec<u8>> {
    let count = message.len().div_ceil(bytes);
    let pieces = message.chunks(bytes).enumerate();
    pieces
        .map(|(index, piece)| {
            let kind = if index == 0 { TEXT } else { CONTINUATION };
            let end = if index + 1 == count { FIN } else { 0 };
            frame(kind | end, piece)
        })
        .collect()
}

/// All in one write.
fn at_once(frames: impl IntoIterator<Item = Vec<u8>>) -> [Vec<u8>; 1] {
    [frames.into_iter().collect::<Vec<_>>().concat()]
}

#[tokio::test]
async fn frames_have_the_form_of_the_rfc() {
    let bytes = |frame: Vec<u8>| frame.into_iter().map(|byte| vec![byte]).collect::<Vec<_>>();
    let unmasked = [&[FIN | TEXT, GOOD.len() as u8], GOOD].concat();
    let zero_mask = [&[FIN | TEXT, 0x80 | GOOD.len() as u8, 0, 0, 0, 0], GOOD].concat();
    let text = FIN | TEXT;
    let mut cases = vec![
        case("5.2", "a text", Serves, [frame(text, GOOD)]),
        case(
            "5.2",
            "its bytes one by one",
            Serves,
            bytes(frame(text, GOOD)),
        ),
        case(
            "5.2",
            "its length in two bytes",
            Serves,
            [frame_with_short_length(text, GOOD)],
        ),
        case(
            "5.2",
            "its length in eight bytes",
            Serves,
            [frame_with_long_length(text, GOOD.len() as u64, GOOD)],
        ),
        case(
            "5.2",
            "a length with its highest bit",
            Fault(4002),
            [frame_with_long_length(text, 1 << 63, GOOD)],
        ),
        case(
            "5.2",
            "the greatest length there may be",
            Fault(4002),
            [frame_with_long_length(text, (1 << 63) - 1, GOOD)],
        ),
        case("5.3", "a mask of zeros", Serves, [zero_mask]),
        case("5.1", "a frame without mask", Fault(4002), [unmasked]),
        case(
            "5.1",
            "a ping without mask",
            Fault(4002),
            [vec![FIN | PING, 0]],
        ),
        case(
            "5.1",
            "a close without mask",
            Fault(4002),
            [vec![FIN | CLOSE, 0]],
        ),
        case("5.6", "binary", Fault(4002), [frame(FIN | BINARY, GOOD)]),
        case("5.6", "an empty text", Fault(4002), [frame(text, b"")]),
    ];
    for bit in [0x40, 0x20, 0x10] {
        for kind in [TEXT, PING, PONG, CLOSE] {
            let pieces = [frame(FIN | bit | kind, b"")];
            cases.push(case("5.2", "a reserved bit", Fault(4002), pieces));
        }
    }
    for kind in [3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF] {
        for payload in [&b""[..], GOOD] {
            let pieces = [frame(FIN | kind, payload)];
            cases.push(case("5.2", "a reserved kind", Fault(4002), pieces));
        }
    }
    assert_table(cases).await;
}

#[tokio::test]
async fn messages_may_come_in_pieces() {
    let (head, tail) = GOOD.split_at(9);
    let (first, last) = (frame(TEXT, head), frame(FIN | CONTINUATION, tail));
    let empty = frame(CONTINUATION, b"");
    let ping = || frame(FIN | PING, b"between");
    let (first, last, empty) = (|| first.clone(), || last.clone(), || empty.clone());
    let cases = vec![
        case("5.4", "two pieces", Serves, [first(), last()]),
        case(
            "5.4",
            "two pieces in one packet",
            Serves,
            at_once([first(), last()]),
        ),
        case("5.4", "a piece a byte", Serves, fragments(GOOD, 1)),
        case(
            "5.4",
            "empty pieces between",
            Serves,
            [first(), empty(), empty(), last()],
        ),
        case(
            "5.4",
            "an empty first and an empty last piece",
            Serves,
            [
                frame(TEXT, b""),
                frame(CONTINUATION, GOOD),
                frame(FIN | CONTINUATION, b""),
            ],
        ),
        case(
            "5.4",
            "two messages in pieces",
            Serves,
            [first(), last(), first(), last()],
        ),
        case("5.4", "a ping between", Serves, [first(), ping(), last()]),
        case(
            "5.4",
            "pings before, between and after",
            Serves,
            [ping(), first(), ping(), last()],
        ),
        case(
            "5.4",
            "a pong between",
            Serves,
            [first(), frame(FIN | PONG, b"x"), last()],
        ),
        case(
            "5.4",
            "all in one packet",
            Serves,
            at_once([first(), ping(), empty(), last()]),
        ),
    ];
    assert_table(cases).await;
}

#[tokio::test]
async fn pieces_of_a_message_follow_one_another() {
    let (head, tail) = GOOD.split_at(9);
    let (first, last) = (frame(TEXT, head), frame(FIN | CONTINUATION, tail));
    let empty = frame(CONTINUATION, b"");
    let (first, last, empty) = (|| first.clone(), || last.clone(), || empty.clone());
    let cases = vec![
        case(
            "5.4",
            "a close between",
            Answer(Some(1000)),
            [first(), close(1000, "")],
        ),
        case(
            "5.4",
            "the pieces of nothing",
            Fault(4002),
            [frame(TEXT, b""), frame(FIN, b"")],
        ),
        case("5.4", "an end without a beginning", Fault(4002), [last()]),
        case(
            "5.4",
            "a middle without a beginning",
            Fault(4002),
            [empty()],
        ),
        case(
            "5.4",
            "an end after the end",
            Fault(4002),
            [first(), last(), last()],
        ),
        case(
            "5.4",
            "a text inside a text",
            Fault(4002),
            [first(), frame(FIN | TEXT, GOOD)],
        ),
        case(
            "5.4",
            "a beginning inside a text",
            Fault(4002),
            [first(), first()],
        ),
        case(
            "5.4",
            "binary inside a text",
            Fault(4002),
            [first(), frame(FIN | BINARY, b"")],
        ),
        case(
            "5.4",
            "binary in pieces",
            Fault(4002),
            [frame(BINARY, head), last()],
        ),
        case(
            "5.4",
            "a reserved bit in a later piece",
            Fault(4002),
            [first(), frame(FIN | 0x40 | CONTINUATION, tail)],
        ),
        case("4 of the contract", "a piece too few", Fault(4002), {
            [first(), frame(FIN | CONTINUATION, &tail[1..])]
        }),
    ];
    assert_table(cases).await;
}

#[tokio::test]
async fn control_frames_are_short_and_whole() {
    let many: Vec<_> = (0..100_u8)
        .map(|number| frame(FIN | PING, &[number]))
        .collect();
    let mut cases = vec![
        case("5.5.2", "an empty ping", Serves, [frame(FIN | PING, b"")]),
        case(
            "5.5.2",
            "the longest ping",
            Serves,
            [frame(FIN | PING, &[7; 125])],
        ),
        case(
            "5.5.2",
            "a ping of no text",
            Serves,
            [frame(FIN | PING, b"\xff\0\xc3")],
        ),
        case(
            "5.5.2",
            "a hundred pings in one packet",
            Serves,
            at_once(many),
        ),
        case(
            "5.5.3",
            "a pong that nobody asked for",
            Serves,
            [frame(FIN | PONG, b"")],
        ),
        case(
            "5.5.3",
            "the longest pong",
            Serves,
            [frame(FIN | PONG, &[7; 125])],
        ),
        case("5.2", "a ping with a long length", Serves, {
            [frame_with_short_length(FIN | PING, b"x")]
        }),
    ];
    for kind in [PING, PONG, CLOSE] {
        let long = [frame(FIN | kind, &[b'x'; 126])];
        cases.push(case(
            "5.5",
            "a control frame of 126 bytes",
            Fault(4002),
            long,
        ));
        let long = [frame(FIN | kind, &[b'x'; 70_000])];
        cases.push(case("5.5", "one of 70,000", Fault(4002), long));
        let piece = [frame(kind, b"")];
        cases.push(case("5.4", "a control frame in pieces", Fault(4002), piece));
    }
    assert_table(cases).await;
}

#[tokio::test]
async fn text_is_any_utf_8() {
    let token = |text: &[u8]| [b"{\"op\":\"token\",\"token\":\"", text, b"\"}"].concat();
    let smile = token("é消😀".as_bytes());
    let text = |bytes: &[u8]| [frame(FIN | TEXT, &token(bytes))];
    let cases = vec![
        case(
            "8.1",
            "characters of two to four bytes",
            Serves,
            [frame(FIN | TEXT, &smile)],
        ),
        case(
            "8.1",
            "the same, each byte a piece",
            Serves,
            fragments(&smile, 1),
        ),
        case(
            "8.1",
            "the same in pieces of two bytes",
            Serves,
            fragments(&smile, 2),
        ),
        case(
            "8.1",
            "the last character there is",
            Serves,
            text(b"\xf4\x8f\xbf\xbf"),
        ),
    ];
    assert_table(cases).await;
}

#[tokio::test]
async fn text_that_is_no_utf_8_is_refused() {
    let token = |text: &[u8]| [b"{\"op\":\"token\",\"token\":\"", text, b"\"}"].concat();
    let bad = |bytes: &[u8]| [frame(FIN | TEXT, &token(bytes))];
    // A character cut in two by the end of the message, with nothing after it.
    let cut = [GOOD, b" \xf0\x9f\x98"].concat();
    let cases = vec![
        case(
            "8.1",
            "a byte that UTF-8 has not",
            Fault(4002),
            bad(b"\xff"),
        ),
        case("8.1", "a continuation alone", Fault(4002), bad(b"\x80")),
        case("8.1", "an overlong zero", Fault(4002), bad(b"\xc0\x80")),
        case(
            "8.1",
            "an overlong slash",
            Fault(4002),
            bad(b"\xe0\x80\xaf"),
        ),
        case(
            "8.1",
            "half of a surrogate pair",
            Fault(4002),
            bad(b"\xed\xa0\x80"),
        ),
        case(
            "8.1",
            "beyond the last character",
            Fault(4002),
            bad(b"\xf4\x90\x80\x80"),
        ),
        case(
            "8.1",
            "a cut at the end",
            Fault(4002),
            [frame(FIN | TEXT, &cut)],
        ),
        case(
            "8.1",
            "a cut at the end of the last piece",
            Fault(4002),
            fragments(&cut, 3),
        ),
        case("8.1", "a bad byte in the first piece", Fault(4002), {
            fragments(&token(b"\xff"), 24)
        }),
        case("8.1", "a character continued by another", Fault(4002), {
            fragments(&token(b"\xf0\x9f\xc3\xa9"), 25)
        }),
    ];
    assert_table(cases).await;
}

#[tokio::test]
async fn messages_have_at_most_64_kibibytes() {
    let largest = padded(MESSAGE_BYTES_MAX);
    let larger = padded(MESSAGE_BYTES_MAX + 1);
    let head = frame(TEXT, &larger[..MESSAGE_BYTES_MAX]);
    let cases = vec![
        case(
            "4 of the contract",
            "65,536 bytes",
            Serves,
            [frame(FIN | TEXT, &largest)],
        ),
        case(
            "4 of the contract",
            "the same in pieces",
            Serves,
            fragments(&largest, 1_000),
        ),
        case("4 of the contract", "the same, three times", Serves, {
            (0..3)
                .map(|_| frame(FIN | TEXT, &largest))
                .collect::<Vec<_>>()
        }),
        case(
            "4 of the contract",
            "65,535 bytes",
            Serves,
            [frame(FIN | TEXT, &largest[1..])],
        ),
        case(
            "4 of the contract",
            "one more",
            Fault(4002),
            [frame(FIN | TEXT, &larger)],
        ),
        case(
            "4 of the contract",
            "one more, in pieces",
            Fault(4002),
            fragments(&larger, 1_000),
        ),
        case(
            "4 of the contract",
            "one more, in the last piece",
            Fault(4002),
            [head, frame(FIN | CONTINUATION, b"}")],
        ),
        case(
            "4 of the contract",
            "four million bytes",
            Fault(4002),
            [frame(FIN | TEXT, &padded(4_000_000))],
        ),
    ];
    assert_table(cases).await;
}
