-- Removes connections of one gateway process from a mailbox, if they are still there.
-- KEYS: hash (see prelude.lua).
-- ARGV: 1 node, 2 incarnation, 3 connection number ('' for all of that process).
-- Returns the number of connections removed.
-- Atomic compare and delete: a connection that replaced it stays. Repeatable.

local fields = { connections = redis.call('HGET', KEYS[1], 'connections') or nil }
local connections = read_connections(fields)
local kept, now = {}, nil
for _, connection in ipairs(connections) do
  if connection.node == ARGV[1] and connection.incarnation == ARGV[2]
    and (ARGV[3] == '' or connection.number == ARGV[3]) then
    now = now or clock()
    -- The device was there until this moment, so its time as a known one starts here.
    local text = redis.call('HGET', KEYS[1], 'device:' .. connection.device)
    if text and ARGV[3] ~= '' then
      local record = parse_device(text)
      record.seen = now
      write_device(connection.device, record)
    end
  else
    kept[#kept + 1] = connection
  end
end
if #kept < #connections then
  write_connections(kept)
end
return #connections - #kept
