-- What all mailbox scripts share. Put before each of them; defines, does nothing by itself.
--
-- KEYS[1] is the hash mailbox:{user}, KEYS[2] the normal list, KEYS[3] the high list: one slot.
-- Fields of the hash:
--   last:<lane>     the last place given out; the head of a list of length n is last - n + 1
--   evicted:<lane>  the last place that the cap evicted
--   floor:<lane>    the last place that every known device had acknowledged when it was trimmed
--   expiry:<lane>   when the list's own expiry was last set, milliseconds
--   connections     "device node incarnation number order", joined by commas
--   life            drawn by the first register; names the time line of the places
--   device:<name>   "normal high creation sequence time seen lost": the cursors in all lanes, the
--                   time of the last acknowledged message, the last sight, a store_lost still owed
--   trimmed         "key=place" of the last acknowledged or evicted entries, joined by spaces
--   hold            "epoch since": nothing is trimmed for a while after since, 0 for no hold
-- A list entry is "1 key time expiry flags json" with 27, 13, 13 and 1 characters before the JSON.
--
-- Order in every script: reads, then writes to the hash, then the command that may empty a list,
-- since a script can be cut short between two writes when its slot moves.

local LANES = { 'normal', 'high' }
local TRIMMED_KEYS_MAX = 32

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

local function expired(entry, now)
  return tonumber(string.sub(entry, 45, 57)) <= now
end

local function read_fields()
  local flat = redis.call('HGETALL', KEYS[1])
  local fields = {}
  for index = 1, #flat, 2 do
    fields[flat[index]] = flat[index + 1]
  end
  return fields
end

local function read_lane(number, fields)
  local name = LANES[number]
  local lane = {
    number = number,
    name = name,
    list = KEYS[number + 1],
    last = tonumber(fields['last:' .. name] or 0),
    evicted = tonumber(fields['evicted:' .. name] or 0),
    floor = tonumber(fields['floor:' .. name] or 0),
  }
  lane.length = redis.call('LLEN', lane.list)
  lane.head = lane.last - lane.length + 1
  return lane
end

local function read_lanes(fields)
  return { read_lane(1, fields), read_lane(2, fields) }
end

-- A list longer than its counter: the hash lost its field, so places mean nothing any more.
local function damaged(lanes)
  return lanes[1].head < 1 or lanes[2].head < 1
end

local function read_connections(fields)
  local connections = {}
  for device, node, incarnation, number, order in
    string.gmatch(fields.connections or '', '([^ ,]+) ([^ ]+) ([^ ]+) ([^ ]+) ([^ ,]+)')
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

local function parse_device(text)
  local numbers = {}
  for number in string.gmatch(text, '%S+') do
    numbers[#numbers + 1] = tonumber(number)
  end
  return {
    places = { numbers[1], numbers[2] }, creation = numbers[3], sequence = numbers[4],
    time = numbers[5], seen = numbers[6], lost = numbers[7],
  }
end

local function write_device(name, record)
  redis.call('HSET', KEYS[1], 'device:' .. name, table.concat({
    whole(record.places[1]), whole(record.places[2]), whole(record.creation),
    whole(record.sequence), whole(record.time), whole(record.seen), whole(record.lost),
  }, ' '))
end

local function read_devices(fields)
  local devices = {}
  for field, text in pairs(fields) do
    local name = string.match(field, '^device:(.+)$')
    if name then
      devices[name] = parse_device(text)
    end
  end
  return devices
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

-- A device is known while it was seen within the time to live or is connected.
local function known(name, record, connections, oldest)
  if record.seen >= oldest then
    return true
  end
  for _, connection in ipairs(connections) do
    if connection.device == name then
      return true
    end
  end
  return false
end

-- How many entries at the head have expired. Only reads.
local function expired_heads(lane, now)
  local count, size = 0, 1
  while count < lane.length do
    local chunk = redis.call('LRANGE', lane.list, count, count + size - 1)
    size = 32
    for _, entry in ipairs(chunk) do
      if not expired(entry, now) then
        return count
      end
      count = count + 1
    end
    if #chunk == 0 then
      return count
    end
  end
  return count
end

-- After a change of epoch the devices come back one by one, and the first must not trim for the
-- others: no trim for hold_ms. Returns true where trimming is allowed; keeps the field up to date.
local function may_trim(fields, epoch, now, hold_ms)
  local held, since = string.match(fields.hold or '', '^(%x+) (%d+)$')
  if held == epoch then
    return now - tonumber(since) >= hold_ms
  end
  local start = held and now or 0
  redis.call('HSET', KEYS[1], 'hold', epoch .. ' ' .. whole(start))
  return now - start >= hold_ms
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
    kept[#kept + 1] = key_of(entry) .. '=' .. whole(lane.head + from + index - 1)
  end
  local first = math.max(1, #kept - TRIMMED_KEYS_MAX + 1)
  fields.trimmed = table.concat(kept, ' ', first)
  redis.call('HSET', KEYS[1], 'trimmed', fields.trimmed)
end

-- Removes the expired heads, and what every known device has acknowledged where trimming is
-- allowed. The last writes of its script.
local function trim(fields, lanes, devices, connections, now, ttl, allowed)
  local removed = {}
  for number, lane in ipairs(lanes) do
    local slowest = nil
    for name, record in pairs(devices) do
      if known(name, record, connections, now - ttl) then
        slowest = math.min(slowest or record.places[number], record.places[number])
      end
    end
    local floor = math.min(slowest or 0, lane.last)
    if allowed and floor > lane.floor then
      redis.call('HSET', KEYS[1], 'floor:' .. lane.name, whole(floor))
      lane.floor = floor
    end
    removed[number] = math.max(lane.floor - lane.head + 1, expired_heads(lane, now))
    if removed[number] > 0 then
      remember_trimmed(fields, lane, removed[number])
    end
  end
  for number, lane in ipairs(lanes) do
    if removed[number] > 0 then
      redis.call('LTRIM', lane.list, removed[number], -1)
    end
  end
end

-- Sets the expiry of a list and of the hash, and evicts what is past the cap. Returns how many
-- entries were evicted.
local function settle(fields, lane, now, ttl, hash_ttl, cap)
  local excess = math.max(0, lane.length - cap)
  redis.call('HSET', KEYS[1], 'expiry:' .. lane.name, whole(now))
  redis.call('PEXPIRE', KEYS[1], hash_ttl)
  if lane.length > 0 then
    redis.call('PEXPIRE', lane.list, 2 * ttl)
  end
  if excess > 0 then
    remember_trimmed(fields, lane, excess)
    redis.call('HSET', KEYS[1], 'evicted:' .. lane.name, whole(lane.head + excess - 1))
    redis.call('LTRIM', lane.list, excess, -1)
  end
  return excess
end

-- The most entries a page may have is looked past by this many, to cut it where the keys allow.
local LOOKAHEAD = 32

-- Where to cut a run of entries, of which at most most may be sent: the last place before which
-- every key lies below every key after it, so that sorted pages are in order among themselves.
-- Where several workers appended at once without such a place, at most.
local function cut(entries, most)
  if #entries <= most then
    return #entries
  end
  local smallest_after = key_of(entries[#entries])
  for index = #entries - 1, most + 1, -1 do
    local key = key_of(entries[index])
    if key < smallest_after then
      smallest_after = key
    end
  end
  local greatest = {}
  for index = 1, most do
    local key = key_of(entries[index])
    greatest[index] = (index > 1 and greatest[index - 1] > key) and greatest[index - 1] or key
  end
  for index = most, 1, -1 do
    if greatest[index] < smallest_after then
      return index
    end
    local key = key_of(entries[index])
    if key < smallest_after then
      smallest_after = key
    end
  end
  return most
end

-- The next entries of one lane after a place: skips what is gone or expired, then takes a run of
-- live entries up to the next expired one. Returns the place before the first entry, the entries.
local function read_run(lane, after, now, most, bytes_most)
  local gap_end = math.max(after, lane.head - 1)
  local entries, bytes, full = {}, 0, false
  local place = gap_end
  while place < lane.last and #entries < most + LOOKAHEAD do
    local index = place - lane.head + 1
    local chunk = redis.call('LRANGE', lane.list, index, index + 15)
    if #chunk == 0 then
      break
    end
    for _, entry in ipairs(chunk) do
      place = place + 1
      if expired(entry, now) then
        if #entries > 0 then
          return gap_end, entries, most
        end
        gap_end = place
      else
        entries[#entries + 1] = entry
        bytes = bytes + #entry
        if bytes > bytes_most and #entries <= most and not full then
          most = math.max(1, #entries - 1)
          full = true
        end
      end
    end
    if full then
      break
    end
  end
  return gap_end, entries, most
end

-- One page: the high lane first, at most most entries and bytes_most bytes (but at least one).
-- Returns {lane or 0, evicted, expired, place before the first entry, entry, …}: places between
-- after and that place are missed; those up to the last evicted place were evicted by the cap.
local function read_page(lanes, after, now, most, bytes_most)
  for _, number in ipairs({ 2, 1 }) do
    local lane = lanes[number]
    if after[number] < lane.last then
      local gap_end, entries, fit = read_run(lane, after[number], now, most, bytes_most)
      local gone = gap_end - after[number]
      local evicted = math.max(0, math.min(lane.evicted, gap_end) - after[number])
      local page = { number, evicted, gone - evicted, gap_end }
      for index = 1, cut(entries, fit) do
        page[#page + 1] = entries[index]
      end
      return page
    end
  end
  return { 0, 0, 0, 0 }
end
