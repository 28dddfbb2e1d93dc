-- How what waits is put in order and cut into pages. Put between the prelude and register or
-- page; defines, does nothing by itself.
-- KEYS: as in prelude.lua. ARGV: none; its functions take what they need.
-- Returns nothing. Atomic with the script that it is a part of.

-- The most entries a page may have is looked past by this many, to cut it where the keys allow.
local LOOKAHEAD = 32
-- Most bytes of entries that are looked through beyond a page: to put them in order, to count.
local SCAN_BYTES_MAX = 8 * 1024 * 1024

-- Puts what waits in event-time order, however many workers appended it, from the place after
-- which no device can hold a cursor: places up to there mean what they mean. It is called while
-- the user is not connected, so nobody is being told a place. The copy takes the list's name in
-- one command, so a script that is cut short loses nothing.
local function sort_unshown(lane, after)
  local first = math.max(after + 1, lane.head) - lane.head
  local entries, keys, bytes, is_sorted = {}, {}, 0, true
  while first + #entries < lane.length and bytes < SCAN_BYTES_MAX do
    local index = first + #entries
    local chunk = redis.call('LRANGE', lane.list, index, index + 31)
    for _, entry in ipairs(chunk) do
      entries[#entries + 1] = entry
      keys[entry] = key_of(entry)
      is_sorted = is_sorted and (#entries == 1 or keys[entries[#entries - 1]] <= keys[entry])
      bytes = bytes + #entry
    end
  end
  if is_sorted then
    return
  end
  table.sort(entries, function(left, right)
    return keys[left] < keys[right]
  end)
  local copy = lane.list .. ':sorted'
  local expiry = redis.call('PTTL', lane.list)
  redis.call('DEL', copy)
  local function push(list)
    for index = 1, #list, 256 do
      redis.call('RPUSH', copy, unpack(list, index, math.min(index + 255, #list)))
    end
  end
  if first > 0 then
    push(redis.call('LRANGE', lane.list, 0, first - 1))
  end
  push(entries)
  push(redis.call('LRANGE', lane.list, first + #entries, -1))
  if expiry > 0 then
    redis.call('PEXPIRE', copy, expiry)
  end
  redis.call('RENAME', copy, lane.list)
end

-- How many messages wait after a place.
local function count_waiting(lane, after, now)
  local place = math.max(after, lane.head - 1)
  local count, bytes = 0, 0
  while place < lane.last and bytes < SCAN_BYTES_MAX do
    local index = place - lane.head + 1
    for _, entry in ipairs(redis.call('LRANGE', lane.list, index, index + 63)) do
      place = place + 1
      bytes = bytes + #entry
      count = count + (expired(entry, now) and 0 or 1)
    end
  end
  return count + lane.last - place
end

-- Where to cut a run of entries, of which at most most may be sent: the last place before which
-- every key lies below every key after it, so that sorted pages are in order among themselves.
-- Where there is no such place, at most.
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
-- live entries up to the next expired one. Returns the place before the first entry, the entries,
-- and how many of them may be sent; beyond these it looks ahead.
local function read_run(lane, after, now, most, bytes_most)
  local gap_end = math.max(after, lane.head - 1)
  local entries, bytes = {}, 0
  local place = gap_end
  while place < lane.last and #entries < most + LOOKAHEAD do
    local index = place - lane.head + 1
    for _, entry in ipairs(redis.call('LRANGE', lane.list, index, index + 15)) do
      place = place + 1
      if not expired(entry, now) then
        entries[#entries + 1] = entry
        bytes = bytes + #entry
      elseif #entries > 0 then
        return gap_end, entries, most
      else
        gap_end = place
      end
      if bytes > bytes_most and #entries > 1 then
        return gap_end, entries, math.min(most, #entries - 1)
      end
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
