-- What all mailbox scripts share. Put before each of them; defines, does nothing by itself.
--
-- KEYS[1] is the hash mailbox:{user}, KEYS[2] the normal list, KEYS[3] the high list: one slot.
-- Fields of the hash:
--   last:<lane>     the last place given out; the head of a list of length n is last - n + 1
--   evicted:<lane>  the last place that the cap evicted
--   floor:<lane>    the last place that every known device had acknowledged when it was trimmed
--   shown:<lane>    the last place when the user's last connection went: up to here a device may
--                   hold a cursor, so what lies there keeps its place
--   expiry:<lane>   when the list's own expiry was last set, milliseconds
--   connections     "device node incarnation number order", joined by commas
--   life            drawn by the first register; names the time line of the places
--   born            when the life was drawn, milliseconds
--   device:<name>   "normal high creation sequence time seen lost": the cursors in all lanes, the
--                   time of the last acknowledged message, the last sight, a store_lost still owed
--   replaced:<name> "node incarnation number" of the connection that the device's newest replaced
--   trimmed         "key=place@time" of the last removed entries, joined by spaces; the time is
--                   when the event was published
--   hold            "epoch until": in this epoch nothing is trimmed before until, milliseconds
--   told_loss       when the last loss of events was found that every device of it was owed
--   rebuilt         the last rebuild that put entries back (see restore.lua)
--   restored:<lane> "rebuild key last": the newest key it brought, and the last place then
-- A list entry is "1 key time expiry flags json" with 27, 13, 13 and 1 characters before the JSON.
--
-- Order in every script: reads, then writes to the hash, then the command that may empty a list,
-- since a script can be cut short between two writes when its slot moves.

local LANES = { 'normal', 'high' }
local COUNTERS = { 'last', 'evicted', 'floor', 'shown' }
local TRIMMED_KEYS_MAX = 32
-- A connection that was not asserted for this long is gone, whatever the hash says: two of the
-- longest periods in which a gateway asserts its connections again.
local CONNECTED_MS_MAX = 240000
-- The greatest whole number that Lua and Redis both keep exactly.
local NUMBER_MAX = 2 ^ 53

local function whole(number)
  return string.format('%.0f', number)
end

-- Redis's clock decides about time to live; milliseconds and microseconds since 1970.
local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000), time[1] * 1000000 + time[2]
end

local function store_epoch()
  return string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
end

local function key_of(entry)
  return string.sub(entry, 3, 29)
end

-- When the event was published; '' in what is no entry of ours.
local function time_of(entry)
  return string.match(entry, '^%d+', 31) or ''
end

-- What is no entry of ours counts as expired, so that it is told and cannot block the list.
local function expired(entry, now)
  local expiry = tonumber(string.sub(entry, 45, 57))
  return not expiry or expiry <= now
end

local function read_fields()
  local flat = redis.call('HGETALL', KEYS[1])
  local fields = {}
  for index = 1, #flat, 2 do
    fields[flat[index]] = flat[index + 1]
  end
  return fields
end

-- What a script about one lane needs: the fields named, and the lane's counters.
local function read_some(names, lane)
  for _, counter in ipairs(COUNTERS) do
    names[#names + 1] = counter .. ':' .. lane
  end
  local fields = {}
  for index, value in ipairs(redis.call('HMGET', KEYS[1], unpack(names))) do
    fields[names[index]] = value or nil
  end
  return fields
end

-- A counter; 0 where it is absent, nil where it is no number that may be counted on.
local function counter(text)
  if not text then
    return 0
  end
  local number = string.match(text, '^%d+$') and tonumber(text)
  return number and number < NUMBER_MAX and number or nil
end

local function read_lane(number, fields)
  local name = LANES[number]
  local lane = { number = number, name = name, list = KEYS[number + 1] }
  for _, field in ipairs(COUNTERS) do
    local value = counter(fields[field .. ':' .. name])
    lane.damaged = lane.damaged or not value
    lane[field] = value or 0
  end
  lane.length = redis.call('LLEN', lane.list)
  lane.head = lane.last - lane.length + 1
  -- A list longer than its counter, or a place beyond it: the hash lost a field, so places mean
  -- nothing any more.
  lane.damaged = lane.damaged or lane.head < 1
    or math.max(lane.evicted, lane.floor, lane.shown) > lane.last
  return lane
end

local function read_connections(fields)
  local connections = {}
  for device, node, incarnation, number, order in
    string.gmatch(fields.connections or '', '([^ ,]+) ([^ ,]+) ([^ ,]+) (%d+) (%d+)')
  do
    connections[#connections + 1] = {
      device = device, node = node, incarnation = incarnation, number = number,
      order = tonumber(order),
    }
  end
  return connections
end

local function write_connections(connections)
  if #connections == 0 then
    redis.call('HDEL', KEYS[1], 'connections')
    return
  end
  local texts = {}
  for index, connection in ipairs(connections) do
    texts[index] = table.concat({
      connection.device, connection.node, connection.incarnation, connection.number,
      whole(connection.order),
    }, ' ')
  end
  redis.call('HSET', KEYS[1], 'connections', table.concat(texts, ','))
end

-- A device's record; nil where it cannot be read.
local function parse_device(text)
  local normal, high, creation, sequence, time, seen, lost =
    string.match(text, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) ([01])$')
  if not normal then
    return nil
  end
  return {
    places = { tonumber(normal), tonumber(high) }, creation = tonumber(creation),
    sequence = tonumber(sequence), time = tonumber(time), seen = tonumber(seen),
    lost = tonumber(lost),
  }
end

local function write_device(name, record)
  redis.call('HSET', KEYS[1], 'device:' .. name, table.concat({
    whole(record.places[1]), whole(record.places[2]), whole(record.creation),
    whole(record.sequence), whole(record.time), whole(record.seen), whole(record.lost),
  }, ' '))
end

-- The whole mailbox. is_damaged: repair it first.
local function read_mailbox()
  local fields = read_fields()
  local mailbox = {
    fields = fields, lanes = { read_lane(1, fields), read_lane(2, fields) }, devices = {},
    connections = read_connections(fields),
  }
  local lanes = mailbox.lanes
  local is_damaged = lanes[1].damaged or lanes[2].damaged
    or (fields.life and not string.find(fields.life, '^%d+$'))
  for field, text in pairs(fields) do
    local name = string.match(field, '^device:(.+)$')
    if name then
      local record = parse_device(text)
      mailbox.devices[name] = record
      is_damaged = is_damaged or not record
        or record.places[1] > lanes[1].last or record.places[2] > lanes[2].last
    end
  end
  mailbox.is_damaged = is_damaged
  return mailbox
end

local function advance(record, normal, high, time)
  record.places[1] = math.max(record.places[1], normal)
  record.places[2] = math.max(record.places[2], high)
  record.time = math.max(record.time, time)
end

-- The cursor among the events for everyone, which is independent of Redis's epoch.
local function advance_everyone(record, creation, sequence)
  if creation > record.creation
    or (creation == record.creation and sequence > record.sequence) then
    record.creation, record.sequence = creation, sequence
  end
end

-- Whether the device is connected. A connection whose record is older than a gateway would let
-- it become was left behind by a call that was carried out after its caller had given it up.
local function connected(name, record, connections, now)
  for _, connection in ipairs(connections) do
    if connection.device == name then
      return record.seen >= now - CONNECTED_MS_MAX
    end
  end
  return false
end

-- A device is known while it was seen within the time to live or is connected.
local function known(name, record, connections, now, ttl)
  return record.seen >= now - ttl or connected(name, record, connections, now)
end

-- How many entries have expired in a row, from an index of the list on. Only reads.
local function expired_from(lane, start, now)
  local index, size = start, 1
  while index < lane.length do
    for _, entry in ipairs(redis.call('LRANGE', lane.list, index, index + size - 1)) do
      if not expired(entry, now) then
        return index - start
      end
      index = index + 1
    end
    size = 32
  end
  return index - start
end

-- After a change of epoch the devices come back one by one, and the first must not trim for the
-- others: no trim for hold_ms, nor before not_before, which follows a loss of the whole store. Says
-- whether trimming is allowed, and what to write.
local function read_hold(fields, epoch, now, hold_ms, not_before)
  local held, until_ms = string.match(fields.hold or '', '^(%x+) (%d+)$')
  local hold = { epoch = epoch, until_ms = tonumber(until_ms or 0), changed = held ~= epoch }
  if held and held ~= epoch then
    hold.until_ms = math.max(hold.until_ms, now + hold_ms)
  end
  hold.allows_trim = now >= math.max(hold.until_ms, not_before)
  return hold
end

local function write_hold(hold)
  if hold.changed then
    redis.call('HSET', KEYS[1], 'hold', hold.epoch .. ' ' .. whole(hold.until_ms))
  end
end

-- Remembers the keys of the first count entries of a list, which are about to be removed.
local function remember_trimmed(fields, lane, count)
  local kept = {}
  local from = math.max(0, count - TRIMMED_KEYS_MAX)
  local entries = redis.call('LRANGE', lane.list, from, count - 1)
  for pair in string.gmatch(fields.trimmed or '', '%S+') do
    kept[#kept + 1] = pair
  end
  for index, entry in ipairs(entries) do
    local place = whole(lane.head + from + index - 1)
    kept[#kept + 1] = key_of(entry) .. '=' .. place .. '@' .. time_of(entry)
  end
  local first = math.max(1, #kept - TRIMMED_KEYS_MAX + 1)
  fields.trimmed = table.concat(kept, ' ', first)
  redis.call('HSET', KEYS[1], 'trimmed', fields.trimmed)
end

-- The place that an entry had when it was removed, where that is remembered. A stream that lost its
-- last events gives their sequences, and so their keys, to others: those have other times. What the
-- first version remembered has no time.
local function trimmed_place(fields, entry)
  local time = time_of(entry)
  for place, at in string.gmatch(fields.trimmed or '', key_of(entry) .. '=(%d+)@?(%d*)') do
    if at == '' or at == time then
      return tonumber(place)
    end
  end
  return nil
end

-- Removes what lies up to the floor, and what expired right after it. The last writes of its script.
local function drop_heads(mailbox, now)
  local removed = {}
  for number, lane in ipairs(mailbox.lanes) do
    local below = math.max(0, lane.floor - lane.head + 1)
    removed[number] = below + expired_from(lane, below, now)
    if removed[number] > 0 then
      remember_trimmed(mailbox.fields, lane, removed[number])
    end
  end
  for number, lane in ipairs(mailbox.lanes) do
    if removed[number] > 0 then
      redis.call('LTRIM', lane.list, removed[number], -1)
    end
  end
end

-- Moves the floor to what every known device has acknowledged, where the hold allows it, and
-- removes what lies below. The last writes of its script.
local function trim(mailbox, hold, now, ttl)
  write_hold(hold)
  for number, lane in ipairs(mailbox.lanes) do
    local slowest = nil
    for name, record in pairs(mailbox.devices) do
      if known(name, record, mailbox.connections, now, ttl) then
        slowest = math.min(slowest or record.places[number], record.places[number])
      end
    end
    if hold.allows_trim and slowest and slowest > lane.floor then
      redis.call('HSET', KEYS[1], 'floor:' .. lane.name, whole(slowest))
      lane.floor = slowest
    end
  end
  drop_heads(mailbox, now)
end

-- Sets the expiry of a list and of the hash, and evicts what is past the cap; entries at the head
-- that expired go first, and are not evicted. Returns how many were evicted.
local function settle(fields, lane, now, ttl, hash_ttl, cap)
  local excess = math.max(0, lane.length - cap)
  local stale = excess > 0 and expired_from(lane, 0, now) or 0
  local removed = math.max(excess, stale)
  redis.call('HSET', KEYS[1], 'expiry:' .. lane.name, whole(now))
  redis.call('PEXPIRE', KEYS[1], hash_ttl)
  redis.call('PEXPIRE', lane.list, 2 * ttl)
  if removed > 0 then
    remember_trimmed(fields, lane, removed)
    if excess > stale then
      redis.call('HSET', KEYS[1], 'evicted:' .. lane.name, whole(lane.head + excess - 1))
    end
    redis.call('LTRIM', lane.list, removed, -1)
  end
  return math.max(0, excess - stale)
end
