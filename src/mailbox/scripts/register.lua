-- Adds a connection of a device, stores the device's cursors, and reads its first page.
-- KEYS: hash, normal list, high list (see prelude.lua).
-- ARGV: 1 epoch, 2 device, 3 node, 4 incarnation, 5 connection number, 6 order (0 for a connection
--   that was never registered), 7 life to use where the mailbox begins one, 8 life of the session
--   that registers again ('' for none), 9 time to live of the mailbox in milliseconds, 10 time to
--   live of the hash in milliseconds, 11 no trim for this many milliseconds after a change of
--   epoch, 12 most devices, 13 most entries, 14 most bytes of the page, 15 and 16 creation and
--   sequence of the newest broadcast, 17 by Redis's clock in milliseconds the last moment at which
--   somebody waits for the answer (0 for always);
--   the client's cursor: 18 epoch ('' for none), 19 life, 20 normal, 21 high, 22 creation,
--   23 sequence, 24 time, 25 1 where it proves that store_lost was told;
--   26 when the last loss of events was found, milliseconds, 0 for never, 27 no trim before this
--   time, milliseconds: until then any device may have been known to a store that was emptied;
--   28 nor before this time: until then any device may have been known to a store that went back;
--   29 and 30 creation and sequence of the place before all broadcasts that are kept, for such a one.
-- Returns {'ok', now, life, order, normal, high, creation, sequence, time, lost, last normal,
--   last high, pending, replaced connection as "node incarnation number" or '', page} (page: see
--   read_page in reading.lua), or {'epoch', current}, {'damaged'}, {'devices'} (too many, all
--   connected), {'replaced'} (a newer connection of the device is there), {'late', now} (nobody
--   waits any more: carried out now, it would take the place of the connection that the device has
--   made elsewhere meanwhile).
-- Atomic: an append is either in the page read here, or it finds the connection. The cursors are
-- stored here, not with the first acknowledgement, because a device that never acknowledged must
-- hold the trim as well. Repeatable: the same connection again keeps its order, and is told again
-- which one it replaced.

local epoch = store_epoch()
if epoch ~= ARGV[1] then
  return { 'epoch', epoch }
end
local now, microseconds = clock()
if ARGV[17] ~= '0' and now > tonumber(ARGV[17]) then
  return { 'late', now }
end
local mailbox = read_mailbox()
if mailbox.is_damaged then
  return { 'damaged' }
end
local fields, lanes, devices = mailbox.fields, mailbox.lanes, mailbox.devices
local device, session_life, ttl = ARGV[2], ARGV[8], tonumber(ARGV[9])
local lost_at, not_before = tonumber(ARGV[26]), tonumber(ARGV[27])
-- A store that lost everything lost whom it knew: whoever comes may have been one of them.
local is_stranger_owed = now < not_before
-- One that went back may have lost whom it had just come to know. Such a device gets all that waits,
-- as a new one does until then: which of the two it is, nobody can say.
local back_until = tonumber(ARGV[28])
local is_stranger_kept = now < back_until

-- The newest connection of a device wins, and Redis says which is the newest: the clocks of two
-- nodes may differ. Returns its order, the connections of the other devices, and the connection
-- it replaces ('' for none); nil where a newer one is there.
local function take_over()
  local node, incarnation, number = ARGV[3], ARGV[4], ARGV[5]
  local order = tonumber(ARGV[6])
  local identity = node .. ' ' .. incarnation .. ' ' .. number
  local former = fields['replaced:' .. device]
  local others, replaced, greatest, own_order = {}, '', 0, nil
  for _, connection in ipairs(mailbox.connections) do
    greatest = math.max(greatest, connection.order)
    if connection.device ~= device then
      others[#others + 1] = connection
    elseif connection.node == node and connection.incarnation == incarnation
      and connection.number == number then
      own_order = connection.order
      replaced = former or ''
    else
      -- A first registration that is repeated after its reply was lost may come after the next
      -- connection's. It is known by what that one replaced, or by the process's own count.
      local is_older = former == identity
      if order > 0 then
        is_older = connection.order > order
      elseif connection.node == node and connection.incarnation == incarnation then
        is_older = is_older or tonumber(connection.number) > tonumber(number)
      end
      if is_older then
        return nil
      end
      replaced = table.concat({ connection.node, connection.incarnation, connection.number }, ' ')
    end
  end
  if order == 0 then
    order = own_order or math.max(microseconds, greatest + 1)
  end
  return order, others, replaced
end

-- Which device to forget for this one: nil for none, false where all are connected.
local function choose_forgotten(others)
  local count, unseen = 0, false
  for name, other in pairs(devices) do
    if name ~= device then
      count = count + 1
      if not connected(name, other, others, now)
        and (not unseen or other.seen < devices[unseen].seen) then
        unseen = name
      end
    end
  end
  return count >= tonumber(ARGV[12]) and unseen or nil, count >= tonumber(ARGV[12])
end

local function has_other_known_device(others)
  for name, other in pairs(devices) do
    if name ~= device and known(name, other, others, now, ttl) then
      return true
    end
  end
  return false
end

-- The client's cursor; nil for none, and for one that nobody can have been given.
local function read_token(life)
  if ARGV[18] == '' then
    return nil
  end
  local token = {
    places = { tonumber(ARGV[20]), tonumber(ARGV[21]) }, creation = tonumber(ARGV[22]),
    sequence = tonumber(ARGV[23]), time = tonumber(ARGV[24]), told = ARGV[25] == '1',
    has_same_epoch = ARGV[18] == epoch, has_same_life = ARGV[19] == life,
  }
  token.is_position = token.has_same_epoch and token.has_same_life
  if token.is_position
    and (token.places[1] > lanes[1].last or token.places[2] > lanes[2].last) then
    return nil
  end
  return token
end

local function fresh(normal, high)
  return {
    places = { normal, high }, creation = tonumber(ARGV[15]), sequence = tonumber(ARGV[16]),
    time = 0, seen = now, lost = 0,
  }
end

-- Where the device starts: its record as it is to be stored.
local function start_of(record, token, is_first)
  local resumes = token or session_life ~= '' or is_stranger_owed
  local start
  if record and (resumes or known(device, record, mailbox.connections, now, ttl)) then
    -- The stored cursor went back with the list, if the store went back.
    start = record
  elseif token and token.is_position then
    start = fresh(token.places[1], token.places[2])
  elseif is_first or resumes or is_stranger_kept then
    -- All that waits. What was trimmed before had been acknowledged by every device known then.
    start = fresh(lanes[1].floor, lanes[2].floor)
    if record then
      advance(start, record.places[1], record.places[2], record.time)
      start.lost = record.lost
    end
  else
    start = fresh(lanes[1].last, lanes[2].last)
  end
  if not record and is_stranger_kept then
    start.creation, start.sequence = tonumber(ARGV[29]), tonumber(ARGV[30])
  end
  if not record and is_stranger_owed and not (token and token.is_position) then
    start.lost = 1
    -- Before all that any stream of events for everyone held.
    start.creation, start.sequence = 1, 0
  end
  if token then
    if not record then
      start.creation, start.sequence = token.creation, token.sequence
    end
    advance_everyone(start, token.creation, token.sequence)
    if token.is_position then
      advance(start, token.places[1], token.places[2], token.time)
      start.lost = token.told and 0 or start.lost
    elseif not token.has_same_life or not record then
      start.lost = 1
    end
  end
  -- Whoever proves that it was here and is not known was lost, with all that it was owed.
  if session_life ~= '' and (session_life ~= mailbox.life or not record) then
    start.lost = 1
  end
  start.seen = now
  return start
end

local order, others, replaced = take_over()
if not order then
  return { 'replaced' }
end
local forget, is_full = choose_forgotten(others)
if is_full and not forget then
  return { 'devices' }
end
local is_born = not fields.life
-- What was lost may have been for any device that was known then. The mailbox is as it was, but
-- begins another life: a position that proves that an earlier loss was told proves nothing now.
local owes_all = not is_born and (counter(fields.told_loss) or 0) < lost_at
if owes_all then
  for _, record in pairs(devices) do
    record.lost = 1
  end
end
local born = is_born and now or counter(fields.born) or 0
mailbox.life = not owes_all and fields.life or ARGV[7]
local hold = read_hold(fields, epoch, now, tonumber(ARGV[11]),
  math.max(not_before, back_until))
local is_first = not has_other_known_device(others)
local start = start_of(devices[device], read_token(mailbox.life), is_first)
-- Devices of a lost mailbox come back one by one, and only their cursors tell that they exist.
if start.lost == 1 and born + ttl > math.max(now, hold.until_ms) then
  hold.until_ms, hold.changed = born + ttl, true
  hold.allows_trim = false
end

devices[device] = start
if #mailbox.connections == 0 then
  for number, lane in ipairs(lanes) do
    local shown = lane.shown
    for _, record in pairs(devices) do
      shown = math.max(shown, record.places[number])
    end
    sort_unshown(lane, shown)
  end
end
local page = read_page(lanes, start.places, now, tonumber(ARGV[13]), tonumber(ARGV[14]))
local pending = count_waiting(lanes[1], start.places[1], now)
  + count_waiting(lanes[2], start.places[2], now)

if is_born or owes_all then
  redis.call('HSET', KEYS[1], 'life', mailbox.life, 'born', whole(born), 'told_loss', whole(lost_at))
  for name, record in pairs(devices) do
    write_device(name, record)
  end
end
write_device(device, start)
if forget then
  redis.call('HDEL', KEYS[1], 'device:' .. forget, 'replaced:' .. forget)
  devices[forget] = nil
end
others[#others + 1] = {
  device = device, node = ARGV[3], incarnation = ARGV[4], number = ARGV[5], order = order,
}
mailbox.connections = others
write_connections(others)
if replaced ~= '' then
  redis.call('HSET', KEYS[1], 'replaced:' .. device, replaced)
elseif fields['replaced:' .. device] then
  redis.call('HDEL', KEYS[1], 'replaced:' .. device)
end
redis.call('PEXPIRE', KEYS[1], ARGV[10])
trim(mailbox, hold, now, ttl)
return {
  'ok', now, mailbox.life, order, start.places[1], start.places[2], start.creation,
  start.sequence, start.time, start.lost, lanes[1].last, lanes[2].last, pending, replaced, page,
}
