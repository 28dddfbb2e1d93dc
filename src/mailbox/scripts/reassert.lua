-- Says again that a connection is there, and returns the counters to compare with.
-- KEYS: hash, normal list, high list (see prelude.lua).
-- ARGV: 1 epoch, 2 life, 3 device, 4 node, 5 incarnation, 6 connection number, 7 order, 8 time to
--   live of the mailbox in milliseconds, 9 time to live of the hash in milliseconds, 10 no trim
--   for this many milliseconds after a change of epoch, 11 nor before this time, milliseconds.
-- Returns {'ok', last normal, last high}, or {'epoch', current}, {'life'}, {'damaged'},
--   {'unknown'} (the device was forgotten: register), {'replaced'} (a newer connection of the
--   device is there).
-- Atomic compare and set; repeatable. It also trims, for what a hold kept.

local epoch = store_epoch()
if epoch ~= ARGV[1] then
  return { 'epoch', epoch }
end
local now = clock()
local mailbox = read_mailbox()
if mailbox.fields.life ~= ARGV[2] then
  return { 'life' }
end
if mailbox.is_damaged then
  return { 'damaged' }
end
local device, order = ARGV[3], tonumber(ARGV[7])
local record = mailbox.devices[device]
if not record then
  return { 'unknown' }
end
local connections = {}
for _, connection in ipairs(mailbox.connections) do
  if connection.device ~= device then
    connections[#connections + 1] = connection
  elseif connection.order > order then
    return { 'replaced' }
  end
end
connections[#connections + 1] = {
  device = device, node = ARGV[4], incarnation = ARGV[5], number = ARGV[6], order = order,
}
mailbox.connections = connections
record.seen = now
write_device(device, record)
write_connections(connections)
redis.call('PEXPIRE', KEYS[1], ARGV[9])
local hold = read_hold(mailbox.fields, epoch, now, tonumber(ARGV[10]), tonumber(ARGV[11]))
trim(mailbox, hold, now, tonumber(ARGV[8]))
return { 'ok', mailbox.lanes[1].last, mailbox.lanes[2].last }
