-- The second half of an append that went past the cap: evicts the oldest, and sets the expiries.
-- KEYS: hash, normal list, high list (see prelude.lua).
-- ARGV: 1 lane (1 normal, 2 high), 2 time to live of the mailbox in milliseconds, 3 time to live
--   of the hash in milliseconds, 4 cap.
-- Returns {'ok', number of entries evicted}, or {'damaged'}.
-- Atomic, because the last evicted place follows from the length and the counter together.
-- Repeatable: a second run finds nothing past the cap. The list's own expiry is twice the time to
-- live, so that it never takes a young entry with an old head.

local now = clock()
local number = tonumber(ARGV[1])
local fields = read_some({ 'trimmed' }, LANES[number])
local lane = read_lane(number, fields)
if lane.damaged then
  return { 'damaged' }
end
return {
  'ok', settle(fields, lane, now, tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])),
}
