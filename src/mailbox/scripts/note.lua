-- Notes in the record of a whole store what changed of it.
-- KEYS: the store's record (see record.rs).
-- ARGV: 1 epoch, 2 the id that it was filled from, 3 and on: fields with their values.
-- Returns {'ok', 'noted'}, {'ok', 'other'} (it is not such a record any more: nothing was written), or
--   {'epoch', current}.
-- Atomic compare and set, so that nothing makes an emptied store look whole. Repeatable.

local epoch = store_epoch()
if epoch ~= ARGV[1] then
  return { 'epoch', epoch }
end
local record = redis.call('HMGET', KEYS[1], 'id', 'epoch')
if record[1] ~= ARGV[2] or record[2] ~= epoch then
  return { 'ok', 'other' }
end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
return { 'ok', 'noted' }
