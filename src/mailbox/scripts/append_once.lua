-- Appends one entry unless it is there already; repeatable. For redeliveries and unknown outcomes.
-- KEYS: hash, normal list, high list (see prelude.lua).
-- ARGV: 1 epoch, 2 lane (1 normal, 2 high), 3 entry, 4 time to live of the mailbox in
--   milliseconds, 5 time to live of the hash in milliseconds, 6 cap.
-- Returns {'ok', place, life or '', connections or '', 1 where it was there already, evicted}, or
--   {'epoch', current}, {'damaged'}.
-- Atomic, so that no other append falls between the search and the push. The search goes from the
-- tail for as long as entries are newer than this one, at least 64 entries: a redelivered event
-- lies among those that were appended around it.

local epoch = store_epoch()
if epoch ~= ARGV[1] then
  return { 'epoch', epoch }
end
local now = clock()
local fields = read_fields()
local lane = read_lane(tonumber(ARGV[2]), fields)
if lane.damaged then
  return { 'damaged' }
end
local ttl, hash_ttl, cap = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local key = key_of(ARGV[3])

local function find()
  for kept, place in string.gmatch(fields.trimmed or '', '(%S+)=(%d+)') do
    if kept == key then
      return tonumber(place)
    end
  end
  local stop = lane.length
  while stop > 0 do
    local start = math.max(0, stop - 64)
    local newer = false
    for index, entry in ipairs(redis.call('LRANGE', lane.list, start, stop - 1)) do
      local other = key_of(entry)
      if other == key then
        return lane.head + start + index - 1
      end
      newer = newer or other > key
    end
    if not newer then
      return nil
    end
    stop = start
  end
  return nil
end

local place = find()
local repeated = place ~= nil
if not repeated then
  place = lane.last + 1
  redis.call('HSET', KEYS[1], 'last:' .. lane.name, whole(place))
  redis.call('RPUSH', lane.list, ARGV[3])
  lane.last = place
  lane.length = lane.length + 1
end
local evicted = settle(fields, lane, now, ttl, hash_ttl, cap)
return {
  'ok', place, fields.life or '', fields.connections or '', repeated and 1 or 0, evicted,
}
