-- Reads the next page of a device, and drops expired heads.
-- KEYS: hash, normal list, high list (see prelude.lua).
-- ARGV: 1 epoch, 2 life, 3 device, 4 normal and 5 high place the session has come to, 6 most
--   entries, 7 most bytes.
-- Returns {'ok', now, last normal, last high, page} (page: see read_page in prelude.lua), or
--   {'epoch', current}, {'life'} (the mailbox has another life), {'damaged'}.
-- Atomic: the counters and the entries belong together. It never moves a cursor.

local epoch = store_epoch()
if epoch ~= ARGV[1] then
  return { 'epoch', epoch }
end
local now = clock()
local fields = read_fields()
if fields.life ~= ARGV[2] then
  return { 'life' }
end
local lanes = read_lanes(fields)
if damaged(lanes) then
  return { 'damaged' }
end
local after = { tonumber(ARGV[4]), tonumber(ARGV[5]) }
local page = read_page(lanes, after, now, tonumber(ARGV[6]), tonumber(ARGV[7]))
trim(fields, lanes, {}, {}, now, 0, false)
return { 'ok', now, lanes[1].last, lanes[2].last, page }
