-- Reads the next page of a device, and drops expired heads.
-- KEYS: hash, normal list, high list (see prelude.lua).
-- ARGV: 1 epoch, 2 life, 3 device, 4 normal and 5 high place the session has come to, 6 most
--   entries, 7 most bytes.
-- Returns {'ok', now, last normal, last high, acknowledged normal, acknowledged high, time of the
--   last acknowledged message, page} (page: see read_page in reading.lua), or {'epoch', current},
--   {'life'} (the mailbox has another life), {'damaged'}, {'unknown'} (the
--   device was forgotten: nothing would be kept for it).
-- Atomic: the counters and the entries belong together. It never moves a cursor.

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
local lanes = mailbox.lanes
local after = { tonumber(ARGV[4]), tonumber(ARGV[5]) }
local page = read_page(lanes, after, now, tonumber(ARGV[6]), tonumber(ARGV[7]))
local lane, reached = lanes[page[1]], page[4] + #page - 4
if lane and reached > lane.shown and #mailbox.connections == 0 then
  -- A session that was taken for dead reads on: what it is told must keep its place.
  redis.call('HSET', KEYS[1], 'shown:' .. lane.name, whole(reached))
end
drop_heads(mailbox, now)
return {
  'ok', now, lanes[1].last, lanes[2].last, record.places[1], record.places[2], record.time, page,
}
