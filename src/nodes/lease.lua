-- Takes, renews or releases a gateway's lease on its name.
-- KEYS: node:<node>.
-- ARGV: 1 incarnation, 2 length of the lease in milliseconds, 3 'take', 'renew' or 'release'.
-- Returns 'held', 'lapsed' (nobody held it; it is this incarnation's again) or 'taken' (another
--   incarnation holds it).
-- Atomic compare and set; repeatable.

local holder = redis.call('GET', KEYS[1])
if ARGV[3] == 'take' or holder == ARGV[1] or (ARGV[3] == 'renew' and not holder) then
  if ARGV[3] == 'release' then
    redis.call('DEL', KEYS[1])
  else
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  end
  return holder and 'held' or 'lapsed'
end
return holder and 'taken' or 'held'
