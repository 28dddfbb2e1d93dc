-- Moves a device's cursors forward and trims what every known device has acknowledged.
-- KEYS: hash, normal list, high list (see prelude.lua).
-- ARGV: 1 epoch, 2 life, 3 device, 4 normal, 5 high, 6 creation, 7 sequence, 8 time of the last
--   acknowledged message, 9 1 where store_lost was told, 10 time to live of the mailbox in
--   milliseconds, 11 time to live of the hash in milliseconds, 12 no trim for this many
--   milliseconds after a change of epoch, 13 nor before this time, milliseconds.
-- Returns {'ok'}, or {'epoch', current}, {'life'}, {'damaged'}, {'unknown'} (the device was
--   forgotten), {'ahead'} (a place that was never given out).
-- Atomic: the slowest cursor and the list belong together. Repeatable: cursors only move forward.
-- The caller proves that the device was sent all of it: on a connection, or by a cursor of this
-- epoch, life, user and device.

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
local record = mailbox.devices[ARGV[3]]
if not record then
  return { 'unknown' }
end
local normal, high = tonumber(ARGV[4]), tonumber(ARGV[5])
if normal > mailbox.lanes[1].last or high > mailbox.lanes[2].last then
  return { 'ahead' }
end
advance(record, normal, high, tonumber(ARGV[8]))
advance_everyone(record, tonumber(ARGV[6]), tonumber(ARGV[7]))
if ARGV[9] == '1' then
  record.lost = 0
end
record.seen = now
write_device(ARGV[3], record)
redis.call('PEXPIRE', KEYS[1], ARGV[11])
local hold = read_hold(mailbox.fields, epoch, now, tonumber(ARGV[12]), tonumber(ARGV[13]))
trim(mailbox, hold, now, tonumber(ARGV[10]))
return { 'ok' }
