-- Adds a connection of a device, stores the device's cursors, and reads its first page.
-- KEYS: hash, normal list, high list (see prelude.lua).
-- ARGV: 1 epoch, 2 device, 3 node, 4 incarnation, 5 connection number, 6 order (0 for a connection
--   that was never registered), 7 life to use where the mailbox has none, 8 life of the session
--   that registers again ('' for none), 9 time to live of the mailbox in milliseconds, 10 time to
--   live of the hash in milliseconds, 11 no trim for this many milliseconds after a change of
--   epoch, 12 most devices, 13 most entries, 14 most bytes of the page, 15 and 16 creation and
--   sequence of the newest broadcast;
--   the client's cursor: 17 epoch ('' for none), 18 life, 19 normal, 20 high, 21 creation,
--   22 sequence, 23 time, 24 1 where it proves that store_lost was told.
-- Returns {'ok', now, life, order, normal, high, creation, sequence, time, lost, last normal,
--   last high, pending, replaced connection as "node incarnation number" or '', page} (page: see
--   read_page in prelude.lua), or {'epoch', current}, {'damaged'}, {'devices'} (too many, all
--   connected), {'replaced'} (a newer connection of the device is there).
-- Atomic: an append is either in the page read here, or it finds the connection. The cursors are
-- stored here, not with the first acknowledgement, because a device that never acknowledged must
-- hold the trim as well. Repeatable: the same connection again keeps its order.

local epoch = store_epoch()
if epoch ~= ARGV[1] then
  return { 'epoch', epoch }
end
local now, microseconds = clock()
local fields = read_fields()
local lanes = read_lanes(fields)
if damaged(lanes) then
  return { 'damaged' }
end
local device, node, incarnation, number = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local order = tonumber(ARGV[6])
local ttl = tonumber(ARGV[9])
local connections = read_connections(fields)
local devices = read_devices(fields)

-- The newest connection of a device wins, and Redis says which is the newest: the clocks of two
-- nodes may differ.
local others, replaced, greatest, own_order = {}, '', 0, nil
for _, connection in ipairs(connections) do
  greatest = math.max(greatest, connection.order)
  if connection.device ~= device then
    others[#others + 1] = connection
  elseif connection.node == node and connection.incarnation == incarnation
    and connection.number == number then
    own_order = connection.order
  else
    if order > 0 and connection.order > order then
      return { 'replaced' }
    end
    replaced = table.concat({ connection.node, connection.incarnation, connection.number }, ' ')
  end
end
if order == 0 then
  order = own_order or math.max(microseconds, greatest + 1)
end

local record = devices[device]
if record and not known(device, record, connections, now - ttl) then
  record.forgotten = true
end
local count, first, unseen = 0, true, nil
for name, other in pairs(devices) do
  if name ~= device then
    count = count + 1
    local is_known = known(name, other, others, now - ttl)
    first = first and not is_known
    local connected = known(name, other, others, math.huge)
    if not connected and (not unseen or other.seen < devices[unseen].seen) then
      unseen = name
    end
  end
end
local forget = nil
if count >= tonumber(ARGV[12]) then
  if not unseen then
    return { 'devices' }
  end
  forget = unseen
end

local life = fields.life or ARGV[7]
local token = nil
if ARGV[17] ~= '' then
  token = {
    places = { tonumber(ARGV[19]), tonumber(ARGV[20]) }, creation = tonumber(ARGV[21]),
    sequence = tonumber(ARGV[22]), time = tonumber(ARGV[23]), told = ARGV[24] == '1',
  }
  token.same_life = ARGV[18] == life
  token.is_position = token.same_life and ARGV[17] == epoch
    and token.places[1] <= lanes[1].last and token.places[2] <= lanes[2].last
end
local lost = (token and not token.same_life) or (ARGV[8] ~= '' and ARGV[8] ~= life)

local function fresh(normal, high)
  return {
    places = { normal, high }, creation = tonumber(ARGV[15]), sequence = tonumber(ARGV[16]),
    time = 0, seen = now, lost = 0,
  }
end

local start
if record and not record.forgotten then
  start = record
else
  if token and token.is_position then
    start = fresh(token.places[1], token.places[2])
  elseif first or token or ARGV[8] ~= '' then
    -- The user's first device, or one whose record the store lost: all that waits. What was
    -- trimmed before had been acknowledged by every device known then.
    start = fresh(lanes[1].floor, lanes[2].floor)
  else
    start = fresh(lanes[1].last, lanes[2].last)
  end
  if token then
    start.creation, start.sequence = token.creation, token.sequence
  end
end
if token then
  advance_everyone(start, token.creation, token.sequence)
end
if token and token.is_position then
  advance(start, token.places[1], token.places[2], token.time)
  if token.told then
    start.lost = 0
  end
end
if lost then
  start.lost = 1
end
start.seen = now
start.forgotten = nil
devices[device] = start
others[#others + 1] = {
  device = device, node = node, incarnation = incarnation, number = number, order = order,
}

local page = read_page(lanes, start.places, now, tonumber(ARGV[13]), tonumber(ARGV[14]))
local pending = 0
for index, lane in ipairs(lanes) do
  local head = lane.head + expired_heads(lane, now)
  pending = pending + lane.last - math.max(start.places[index], head - 1)
end

redis.call('HSET', KEYS[1], 'life', life)
write_device(device, start)
if forget then
  redis.call('HDEL', KEYS[1], 'device:' .. forget)
  devices[forget] = nil
end
write_connections(others)
local allowed = may_trim(fields, epoch, now, tonumber(ARGV[11]))
redis.call('PEXPIRE', KEYS[1], ARGV[10])
trim(fields, lanes, devices, others, now, ttl, allowed)
return {
  'ok', now, life, order, start.places[1], start.places[2], start.creation, start.sequence,
  start.time, start.lost, lanes[1].last, lanes[2].last, pending, replaced, page,
}
