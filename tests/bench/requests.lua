-- Configures the requests of wrk and prints its figures at the end.
--
--   wrk .. URL -- BODY-FILE PATH..
--
-- The body is sent to the paths in turn.

function init(args)
  local file = assert(io.open(args[1], "rb"))
  local body = file:read("*a")
  file:close()

  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  local requests = {}
  for i = 2, #args do
    requests[i - 1] = wrk.format(nil, args[i], nil, body)
  end

  -- Every connection gets its next request from here. With a single request this hook is not set:
  -- wrk then builds the request once, and no Lua runs during the measurement.
  if #requests == 1 then
    wrk.path = args[2]
    wrk.body = body
  else
    local last = 0
    request = function()
      last = last % #requests + 1
      return requests[last]
    end
  end
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'figures {"calls":%d,"us":%d,"p50":%d,"p90":%d,"p99":%d,"max":%d,'
      .. '"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}\n',
    summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency.max,
    errors.connect, errors.read, errors.write, errors.status, errors.timeout
  ))
end
