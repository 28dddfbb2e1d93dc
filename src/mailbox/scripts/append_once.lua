-- Appends one entry unless it is there already; repeatable. For redeliveries and unknown outcomes.
-- KEYS: hash, normal list, high list (see prelude.lua).
-- ARGV: 1 epoch, 2 lane (1 normal, 2 high), 3 entry, 4 time to live of the mailbox in
--   milliseconds, 5 time to live of the hash in milliseconds, 6 cap, 7 how many of the newest
--   entries are searched; all of them where a rebuild may have brought the entry.
-- Returns {'ok', place, life or '', connections or '', 1 where it was there already, evicted}, or
--   {'epoch', current}, {'damaged'}.
-- Atomic, so that no other append falls between the search and the push. An event gives the same
-- entry each time, so it is looked for as a whole, which the server does forty times faster than a
-- script could compare keys. How deep it lies depends on what was appended since, which may be all
-- of the list. What left a list is known by its key and time.

local epoch = store_epoch()
if epoch ~= ARGV[1] then
  return { 'epoch', epoch }
end
local number, entry = tonumber(ARGV[2]), ARGV[3]
local ttl, hash_ttl, cap = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local now = clock()
local expiry = 'expiry:' .. LANES[number]
local restored = 'restored:' .. LANES[number]
local fields = read_some({ 'life', 'connections', 'trimmed', expiry, restored }, LANES[number])
local lane = read_lane(number, fields)
if lane.damaged then
  return { 'damaged' }
end

local function find()
  local place = trimmed_place(fields, entry)
  if place then
    return place
  end
  local newest = string.match(fields[restored] or '', '^%S+ (%x+) ')
  local searched = newest and key_of(entry) <= newest and 0 or ARGV[7]
  local index = redis.call('LPOS', lane.list, entry, 'RANK', -1, 'MAXLEN', searched)
  return index and lane.head + index
end

local place = find()
local repeated = place and true or false
if not repeated then
  place = lane.last + 1
  redis.call('HSET', KEYS[1], 'last:' .. lane.name, whole(place))
  redis.call('RPUSH', lane.list, entry)
  lane.last = place
  lane.length = lane.length + 1
end
-- A repeat sets the expiry that the first attempt may have left out.
local is_old = math.abs(now - (counter(fields[expiry]) or 0)) >= ttl
local evicted = 0
if repeated or lane.length == 1 or lane.length > cap or is_old then
  evicted = settle(fields, lane, now, ttl, hash_ttl, cap)
end
return {
  'ok', place, fields.life or '', fields.connections or '', repeated and 1 or 0, evicted,
}
