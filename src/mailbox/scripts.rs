//! The Lua scripts, each with what it shares with the others before it.

use std::sync::LazyLock;

use redis::Script;

macro_rules! script {
    ($name:ident, $($file:literal),+) => {
        pub(super) static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!(
                include_str!("scripts/prelude.lua"),
                $("\n", include_str!(concat!("scripts/", $file))),+
            ))
        });
    };
}

script!(ACK, "ack.lua");
script!(ADVANCE, "advance.lua");
script!(APPEND_ONCE, "append_once.lua");
script!(CARRY, "carry.lua");
script!(CLAIM, "claim.lua");
script!(LOSE_EVERYONE, "lose_everyone.lua");
script!(NOTE, "note.lua");
script!(PAGE, "reading.lua", "page.lua");
script!(REASSERT, "reassert.lua");
script!(REGISTER, "reading.lua", "register.lua");
script!(REPAIR, "repair.lua");
script!(RESTORE, "restore.lua");
script!(SETTLE, "settle.lua");
script!(UNREGISTER, "unregister.lua");
