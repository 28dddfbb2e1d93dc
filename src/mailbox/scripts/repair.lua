-- Makes a damaged mailbox usable: a key of the wrong type, a list without its counter, a field
-- that cannot be read.
-- KEYS: hash, normal list, high list (see prelude.lua).
-- ARGV: 1 new life.
-- Returns 1 where something was repaired, 0 where nothing was wrong.
-- Atomic and repeatable. A key of another type is not ours: it is renamed to <key>:damaged, not
-- deleted. Places may have shifted, so the mailbox starts a new life and every device is owed
-- store_lost.

local repaired = false
for index, kind in ipairs({ 'hash', 'list', 'list' }) do
  local found = redis.call('TYPE', KEYS[index]).ok
  if found ~= kind and found ~= 'none' then
    redis.call('RENAME', KEYS[index], KEYS[index] .. ':damaged')
    repaired = true
  end
end
local fields = read_fields()
for _, name in ipairs(LANES) do
  for _, counter in ipairs({ 'last:', 'evicted:', 'floor:', 'expiry:' }) do
    local text = fields[counter .. name]
    if text and not tonumber(text) then
      redis.call('HDEL', KEYS[1], counter .. name)
      fields[counter .. name] = nil
      repaired = true
    end
  end
end
for field, text in pairs(fields) do
  local _, numbers = string.gsub(text, '%f[%d]%d+%f[^%d]', '')
  if string.match(field, '^device:') and (numbers ~= 7 or string.find(text, '[^%d ]')) then
    redis.call('HDEL', KEYS[1], field)
    fields[field] = nil
    repaired = true
  end
end
local lanes = read_lanes(fields)
if not repaired and not damaged(lanes) then
  return 0
end
for _, lane in ipairs(lanes) do
  redis.call('HSET', KEYS[1], 'last:' .. lane.name, whole(math.max(lane.last, lane.length)))
end
redis.call('HSET', KEYS[1], 'life', ARGV[1])
for name, record in pairs(read_devices(fields)) do
  record.lost = 1
  write_device(name, record)
end
return 1
