//! Lets time pass for a mailbox without waiting: everything that was written with a time moves
//! into the past, Redis's own expiries too.

use std::sync::LazyLock;
use std::time::Duration;

use catchup::event::UserId;
use catchup::mailbox::Keys;
use redis::Script;
use redis::aio::MultiplexedConnection;

static PASS: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local passed = tonumber(ARGV[1])
local function earlier(text)
  local number = tonumber(text)
  return string.format('%.0f', number == 0 and 0 or math.max(1, number - passed))
end
for _, key in ipairs(KEYS) do
  local left = redis.call('PTTL', key)
  if left > passed then
    redis.call('PEXPIRE', key, left - passed)
  elseif left >= 0 then
    redis.call('DEL', key)
  end
end
local flat = redis.call('HGETALL', KEYS[1])
for index = 1, #flat, 2 do
  local field, text = flat[index], flat[index + 1]
  if string.match(field, '^expiry:') or field == 'born' then
    text = earlier(text)
  elseif field == 'hold' then
    text = string.gsub(text, '%d+$', earlier)
  elseif string.match(field, '^device:') then
    local head, seen, lost = string.match(text, '^(.*) (%d+) (%d+)$')
    text = head .. ' ' .. earlier(seen) .. ' ' .. lost
  end
  redis.call('HSET', KEYS[1], field, text)
end
for index = 2, 3 do
  for place, entry in ipairs(redis.call('LRANGE', KEYS[index], 0, -1)) do
    local expiry = string.format('%013.0f', tonumber(string.sub(entry, 45, 57)) - passed)
    local text = string.sub(entry, 1, 44) .. expiry .. string.sub(entry, 58)
    redis.call('LSET', KEYS[index], place - 1, text)
  end
end
",
    )
});

pub async fn pass(redis: &MultiplexedConnection, keys: &Keys, user: &UserId, duration: Duration) {
    pass_ms(redis, keys, user, duration.as_millis() as i64).await;
}

/// Below zero: what really passed did not.
pub async fn pass_ms(redis: &MultiplexedConnection, keys: &Keys, user: &UserId, passed_ms: i64) {
    let () = PASS
        .key(keys.mailbox(user.as_str()))
        .key(keys.normal(user.as_str()))
        .key(keys.high(user.as_str()))
        .arg(passed_ms)
        .invoke_async(&mut redis.clone())
        .await
        .unwrap();
}
