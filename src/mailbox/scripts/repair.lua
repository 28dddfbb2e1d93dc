-- Makes a damaged mailbox usable: a key of the wrong type, a list without its counter, a field
-- that cannot be read.
-- KEYS: hash, normal list, high list (see prelude.lua).
-- ARGV: 1 new life, 2 time to live of the hash in milliseconds.
-- Returns 1 where something was repaired, 0 where nothing was wrong.
-- Atomic and repeatable. A key of another type is not ours: it is renamed to <key>:damaged, not
-- deleted. Places may have shifted, so the mailbox starts a new life, every device is owed
-- store_lost, and in a damaged lane is sent again all that is there.

local is_renamed = {}
for index, kind in ipairs({ 'hash', 'list', 'list' }) do
  local found = redis.call('TYPE', KEYS[index]).ok
  if found ~= kind and found ~= 'none' then
    redis.call('RENAME', KEYS[index], KEYS[index] .. ':damaged')
    is_renamed[index] = true
  end
end
local mailbox = read_mailbox()
if not (mailbox.is_damaged or is_renamed[1] or is_renamed[2] or is_renamed[3]) then
  return 0
end
local now = clock()
for number, lane in ipairs(mailbox.lanes) do
  lane.damaged = lane.damaged or is_renamed[1] or is_renamed[number + 1]
  for _, record in pairs(mailbox.devices) do
    lane.damaged = lane.damaged or record.places[number] > lane.last
  end
  if lane.damaged then
    lane.last = math.max(lane.last, lane.length)
    lane.before = lane.last - lane.length
    redis.call('HSET', KEYS[1], 'last:' .. lane.name, whole(lane.last),
      'evicted:' .. lane.name, whole(math.min(lane.evicted, lane.before)),
      'floor:' .. lane.name, whole(lane.before), 'shown:' .. lane.name, whole(lane.last))
  end
end
for field in pairs(mailbox.fields) do
  local name = string.match(field, '^device:(.+)$')
  if name then
    local record = mailbox.devices[name] or {
      places = { mailbox.lanes[1].head - 1, mailbox.lanes[2].head - 1 }, creation = 0,
      sequence = 0, time = 0, seen = now,
    }
    for number, lane in ipairs(mailbox.lanes) do
      record.places[number] = lane.before or record.places[number]
    end
    record.lost = 1
    write_device(name, record)
  end
end
redis.call('HSET', KEYS[1], 'life', ARGV[1], 'born', whole(now))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
