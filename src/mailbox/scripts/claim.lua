-- Judges whether the store is whole, and gives the work of making it whole to one worker.
-- KEYS: the store's record (see record.rs).
-- ARGV: 1 epoch, 2 the id that the stream of events carries, 3 worker, 4 lease in milliseconds,
--   5 name for a new rebuild, 6 the last sequence that was ever delivered to a worker, 7 1 where
--   the stream had no id until now; in a cluster also 8 the server's id, 9 the ids of all who may
--   be primary in its place, 10 its slots, 11 the record's slots where they do not vouch for these.
-- Returns {'ok', 'whole'}, {'ok', 'first'} (a store and a stream that never met), {'ok', 'other'}
--   (the stream was made anew: what it held is lost), {'ok', 'busy', kind, next, last} (another
--   worker is at it), {'ok', 'yours', kind, name, next, last, milliseconds since the store's clock
--   was written, or -1}, or {'epoch', current}.
-- Atomic, so that one worker at a time has the lease. Repeatable: the same worker gets it again.

local epoch = store_epoch()
if epoch ~= ARGV[1] then
  return { 'epoch', epoch }
end
local now = clock()
local record = read_fields()
local id, worker, delivered = ARGV[2], ARGV[3], tonumber(ARGV[6])

local slots = ARGV[10] or ''
local is_foreign = ARGV[8] and record.members
  and not string.find(' ' .. record.members .. ' ', ' ' .. ARGV[8] .. ' ', 1, true)
if is_foreign then
  record = {}
elseif (ARGV[11] or '') ~= '' and record.slots == ARGV[11] then
  record.id = nil
end

local function write_members()
  if slots ~= '' then
    redis.call('HSET', KEYS[1], 'members', ARGV[9], 'slots', slots)
  end
end

local function settle()
  redis.call('HSET', KEYS[1], 'id', id, 'epoch', epoch)
  write_members()
  redis.call('HDEL', KEYS[1], 'rebuild:kind', 'rebuild:id')
end

if is_foreign then
  redis.call('DEL', KEYS[1])
end
local is_same = record.id == id
if is_same and record.epoch == epoch then
  return { 'ok', 'whole' }
end
if is_same then
  redis.call('HSET', KEYS[1], 'back', whole(now))
end
local kind = record['rebuild:id'] == id and (record['rebuild:slots'] or '') == slots
  and record['rebuild:kind']
if not kind then
  if is_same and record.floor and tonumber(record.floor) >= delivered then
    settle()
    return { 'ok', 'whole' }
  end
  if not is_same and (delivered == 0 or (ARGV[7] == '1' and not record.id)) then
    if record.id then
      redis.call('HSET', KEYS[1], 'lost', whole(now))
    end
    settle()
    return { 'ok', record.id and 'other' or 'first' }
  end
  kind = is_same and 'back' or 'empty'
  record['rebuild:name'], record['rebuild:until'] = ARGV[5], nil
  record['rebuild:next'], record['rebuild:last'] = '0', '0'
  if is_same and record.floor then
    record['rebuild:next'] = whole(tonumber(record.floor) + 1)
  elseif not is_same then
    redis.call('HDEL', KEYS[1], 'id', 'floor')
    redis.call('HSET', KEYS[1], 'wiped', whole(now), 'lost', whole(now))
  end
  -- What is brought is for these slots; with others it begins anew.
  redis.call('HSET', KEYS[1], 'rebuild:slots', slots)
  if slots ~= '' then
    redis.call('HSET', KEYS[1], 'members', ARGV[9])
  end
end
local next, last = record['rebuild:next'], math.max(tonumber(record['rebuild:last']), delivered)
if tonumber(record['rebuild:until'] or 0) > now and record['rebuild:worker'] ~= worker then
  return { 'ok', 'busy', kind, next, whole(last) }
end
local name = record['rebuild:name']
redis.call(
  'HSET', KEYS[1], 'rebuild:kind', kind, 'rebuild:id', id, 'rebuild:name', name,
  'rebuild:next', next, 'rebuild:last', whole(last), 'rebuild:worker', worker,
  'rebuild:until', whole(now + tonumber(ARGV[4]))
)
local silent = record.clock and math.max(0, now - tonumber(record.clock)) or -1
return { 'ok', 'yours', kind, name, next, whole(last), whole(silent) }
