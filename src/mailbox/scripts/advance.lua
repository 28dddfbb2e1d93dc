-- Notes how far a rebuild has come, renews its lease, and ends it.
-- KEYS: the store's record (see record.rs).
-- ARGV: 1 epoch, 2 worker, 3 name of the rebuild, 4 lease in milliseconds, 5 the next sequence,
--   6 the stream's id where all is done, else ''.
-- Returns {'ok', 'noted'}, {'ok', 'taken'} (it is another worker's, or over), or {'epoch', current}.
-- Atomic compare and set: a worker that was away for longer than its lease moves nothing.

local epoch = store_epoch()
if epoch ~= ARGV[1] then
  return { 'epoch', epoch }
end
local now = clock()
local record = read_fields()
if not record['rebuild:kind'] or record['rebuild:name'] ~= ARGV[3]
  or record['rebuild:worker'] ~= ARGV[2] then
  return { 'ok', 'taken' }
end
if ARGV[6] == '' then
  redis.call(
    'HSET', KEYS[1], 'rebuild:next', ARGV[5], 'rebuild:until', whole(now + tonumber(ARGV[4]))
  )
else
  redis.call('HSET', KEYS[1], 'id', ARGV[6], 'epoch', epoch, 'rebuilt', ARGV[3])
  if (record['rebuild:slots'] or '') ~= '' then
    redis.call('HSET', KEYS[1], 'slots', record['rebuild:slots'])
  end
  redis.call('HDEL', KEYS[1], 'rebuild:kind', 'rebuild:id', 'rebuild:slots')
end
return { 'ok', 'noted' }
