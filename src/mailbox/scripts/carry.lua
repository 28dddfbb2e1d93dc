-- Writes the record of a cluster's primary that is whole and has none: its own went with a slot to
-- another, or it had no slots before.
-- KEYS: the store's record (see record.rs).
-- ARGV: 1 epoch, 2 id that the stream of events carries, 3 the server's id, 4 the ids of all who may
--   be primary in its place, 5 its slots, 6 those that left it lately, 7 when it was found empty,
--   8 when events were found lost.
-- Returns {'ok', 'carried'}, {'ok', 'other'} (there is one already), or {'epoch', current}.
-- Atomic compare and set. Repeatable.

local epoch = store_epoch()
if epoch ~= ARGV[1] then
  return { 'epoch', epoch }
end
local record = read_fields()
local is_own = record.members
  and string.find(' ' .. record.members .. ' ', ' ' .. ARGV[3] .. ' ', 1, true)
if is_own and (record.id or record['rebuild:kind']) then
  return { 'ok', 'other' }
end
redis.call(
  'HDEL', KEYS[1], 'floor', 'rebuilt', 'rebuild:kind', 'rebuild:id', 'rebuild:slots'
)
redis.call(
  'HSET', KEYS[1], 'id', ARGV[2], 'epoch', epoch, 'members', ARGV[4], 'slots', ARGV[5],
  'left', ARGV[6], 'wiped', ARGV[7], 'lost', ARGV[8]
)
return { 'ok', 'carried' }
