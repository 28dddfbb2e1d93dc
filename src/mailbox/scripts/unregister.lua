-- Removes connections of one gateway process from a mailbox, if they are still there.
-- KEYS: hash (see prelude.lua).
-- ARGV: 1 node, 2 incarnation, 3 connection number ('' for all of that process).
-- Returns the number of connections removed.
-- Atomic compare and delete: a connection that replaced it stays. Repeatable.

local names = { 'connections', 'last:normal', 'last:high' }
local values = redis.call('HMGET', KEYS[1], unpack(names))
local connections = read_connections({ connections = values[1] or nil })
local kept, seen = {}, {}
for _, connection in ipairs(connections) do
  if connection.node ~= ARGV[1] or connection.incarnation ~= ARGV[2]
    or (ARGV[3] ~= '' and connection.number ~= ARGV[3]) then
    kept[#kept + 1] = connection
  elseif ARGV[3] ~= '' then
    -- The device was there until this moment, so its time as a known one starts here.
    local text = redis.call('HGET', KEYS[1], 'device:' .. connection.device)
    seen[connection.device] = text and parse_device(text) or nil
  end
end
if #kept == #connections then
  return 0
end
for device, record in pairs(seen) do
  record.seen = clock()
  write_device(device, record)
end
if #kept == 0 then
  -- Until here, whatever was appended may have been sent to a device that was connected.
  for index, lane in ipairs(LANES) do
    if values[index + 1] then
      redis.call('HSET', KEYS[1], 'shown:' .. lane, values[index + 1])
    end
  end
end
write_connections(kept)
return #connections - #kept
