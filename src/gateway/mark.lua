-- Keeps the newest message that any gateway read from BROADCASTS: "time line, sequence, time".
-- KEYS: 1 the mark. ARGV: 1 time line, 2 sequence, 3 when it was stored, milliseconds.
-- Returns nothing.
-- Atomic, so that a gateway that is behind does not take back what another one wrote.

local kept = redis.call('GET', KEYS[1]) or ''
local line, sequence = string.match(kept, '^(%d+) (%d+) %d+$')
line, sequence = tonumber(line or 0), tonumber(sequence or 0)
local new_line, new_sequence = tonumber(ARGV[1]), tonumber(ARGV[2])
if new_line > line or (new_line == line and new_sequence > sequence) then
  redis.call('SET', KEYS[1], table.concat(ARGV, ' '))
end
