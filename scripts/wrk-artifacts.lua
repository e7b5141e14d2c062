-- The requests of scripts/bench-http.sh, for wrk.
--
-- usage: wrk … -s scripts/wrk-artifacts.lua URL -- METHOD PREFIX BYTES COUNT
--
-- PUT writes random bytes under a new name with each request: names begin with PREFIX and are never used twice in a run.
-- GET asks for the names PREFIX00000000 to PREFIX(COUNT - 1) in turn. Whatever is not answered with 2xx ends as an error
-- in wrk's own summary ("Non-2xx").
-- The last line says requests per second, MiB per second that came back, and how many requests failed.
local threads = 0

function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

function init(arguments)
  method, prefix, count = arguments[1], arguments[2], tonumber(arguments[4])
  next_one = 0
  body = nil
  if method == "PUT" then
    local random = assert(io.open("/dev/urandom", "rb"))
    body = random:read(tonumber(arguments[3]))
    random:close()
  end
end

function request()
  local name
  if method == "PUT" then
    name = string.format("%s%x-%08x", prefix, number, next_one)
  else
    name = string.format("%s%08x", prefix, (next_one + number * 7919) % count)
  end
  next_one = next_one + 1
  return wrk.format(method, name, nil, body)
end

function done(summary, latency, requests)
  local failed = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout
  local seconds = summary.duration / 1000000
  io.write(string.format("figures %.2f %.2f %d\n", summary.requests / seconds, summary.bytes / seconds / 1048576, failed))
end
