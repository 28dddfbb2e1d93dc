-- Puts entries that the store lost back into one lane, where they are not there already.
-- KEYS: hash, normal list, high list (see prelude.lua).
-- ARGV: 1 epoch, 2 lane (1 normal, 2 high), 3 time to live of the mailbox in milliseconds, 4 time
--   to live of the hash in milliseconds, 5 cap, 6 name of the rebuild, 7 'empty' (the store lost
--   everything) or 'back' (it went back), 8 a life to use, 9 and on: entries, oldest first.
-- Returns {'ok', entries put in, evicted}, or {'epoch', current}, {'damaged'}.
-- Atomic, and repeatable: a rebuild comes by with rising keys, and what it brought before is passed
-- over by the newest of them, which the field restored:<lane> keeps.
--
-- Where the store went back, places of this epoch hold, so an entry goes to the end, unless it is
-- in the list or among the trimmed. Where it was emptied, what is here was put in before that was
-- noticed: places, cursors and trimmed keys mean nothing, since devices that were known before
-- could not hold the trim. So the mailbox starts a new life, all devices at its head and owed
-- store_lost, and the list is put in order with what comes back.

local epoch = store_epoch()
if epoch ~= ARGV[1] then
  return { 'epoch', epoch }
end
local now = clock()
local mailbox = read_mailbox()
if mailbox.is_damaged then
  return { 'damaged' }
end
local fields, lane = mailbox.fields, mailbox.lanes[tonumber(ARGV[2])]
local ttl, hash_ttl, cap = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local rebuild, is_empty = ARGV[6], ARGV[7] == 'empty'
local mark = 'restored:' .. lane.name
local marked, newest, last = string.match(fields[mark] or '', '^(%S+) (%x+) (%d+)$')
local is_marked = marked == rebuild
-- Only this rebuild has appended since it came by.
local is_alone = is_marked and tonumber(last) == lane.last
local is_fresh = fields.rebuilt ~= rebuild

local entries, top = {}, redis.call('LINDEX', lane.list, -1)
for index = 9, #ARGV do
  local entry = ARGV[index]
  local key = key_of(entry)
  local is_there = is_marked and key <= newest
  if not is_there and not (is_alone and is_empty and (not top or key_of(top) < key)) then
    is_there = redis.call('LPOS', lane.list, entry, 'RANK', -1)
      or (not is_empty and string.find(fields.trimmed or '', key .. '=', 1, true))
  end
  if not is_there then
    entries[#entries + 1] = entry
  end
end
local through = key_of(ARGV[#ARGV])
if is_marked and newest > through then
  through = newest
end
local is_behind = is_empty and top and #entries > 0 and key_of(top) > key_of(entries[1])

-- Before the entries are in: the places of the list stay, whatever is pushed.
local function begin_life()
  for _, other in ipairs(mailbox.lanes) do
    local before = whole(other.head - 1)
    redis.call('HSET', KEYS[1], 'floor:' .. other.name, before, 'evicted:' .. other.name,
      whole(math.min(other.evicted, other.head - 1)), 'shown:' .. other.name, before)
  end
  for name, record in pairs(mailbox.devices) do
    record.places, record.lost = { mailbox.lanes[1].head - 1, mailbox.lanes[2].head - 1 }, 1
    write_device(name, record)
  end
  redis.call('HSET', KEYS[1], 'life', ARGV[8], 'born', whole(now))
  redis.call('HDEL', KEYS[1], 'trimmed')
  fields.trimmed = nil
end

if is_empty and fields.life and (is_fresh or is_behind) then
  begin_life()
end
lane.last = lane.last + #entries
lane.length = lane.length + #entries
redis.call('HSET', KEYS[1], 'rebuilt', rebuild, 'last:' .. lane.name, whole(lane.last),
  mark, rebuild .. ' ' .. through .. ' ' .. whole(lane.last))
local function push(list, from)
  for index = 1, #from, 256 do
    redis.call('RPUSH', list, unpack(from, index, math.min(index + 255, #from)))
  end
end
if is_behind then
  -- The copy takes the list's name in one command, so a script that is cut short loses nothing.
  local all, keys = redis.call('LRANGE', lane.list, 0, -1), {}
  for _, entry in ipairs(entries) do
    all[#all + 1] = entry
  end
  for _, entry in ipairs(all) do
    keys[entry] = key_of(entry)
  end
  table.sort(all, function(left, right)
    return keys[left] < keys[right]
  end)
  redis.call('DEL', lane.list .. ':sorted')
  push(lane.list .. ':sorted', all)
  redis.call('RENAME', lane.list .. ':sorted', lane.list)
else
  push(lane.list, entries)
end
local evicted = 0
if #entries > 0 then
  evicted = settle(fields, lane, now, ttl, hash_ttl, cap)
end
return { 'ok', #entries, evicted }
