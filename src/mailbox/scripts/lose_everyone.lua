-- Takes a device's cursor among the events for everyone back: the stream lost what it names.
-- KEYS: hash, normal list, high list (see prelude.lua).
-- ARGV: 1 epoch, 2 life, 3 device, 4 creation and 5 sequence of the cursor, 6 creation and
--   7 sequence of what stands for it.
-- Returns {'ok'}, or {'epoch', current}, {'life'}, {'damaged'}, {'unknown'} (the device was
--   forgotten).
-- Atomic compare and set: where the cursor is another one meanwhile, it stays. Repeatable.

local epoch = store_epoch()
if epoch ~= ARGV[1] then
  return { 'epoch', epoch }
end
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
if record.creation == tonumber(ARGV[4]) and record.sequence == tonumber(ARGV[5]) then
  record.creation, record.sequence = tonumber(ARGV[6]), tonumber(ARGV[7])
  write_device(ARGV[3], record)
end
return { 'ok' }
