-- What perf/load-test lets wrk send; the arguments are a file of item ids in quotes, users, and a pause in milliseconds.
local threads = {}
local items, users, pause = {}, 0, 0
bad, told = 0, ""

function setup(thread)
    thread:set("number", #threads + 1)
    table.insert(threads, thread)
end

function init(args)
    math.randomseed(number)
    for line in io.lines(args[1]) do
        table.insert(items, line)
    end
    users, pause = tonumber(args[2]), tonumber(args[3])
end

function delay()
    return pause
end

function request()
    local user = "/v1/users/u" .. math.random(0, users - 1)
    local kind = math.random(10)
    if kind <= 5 then
        return wrk.format("GET", user .. "/recommendations?k=10")
    elseif kind == 6 then
        return post(user .. "/recommendations", '{"k":10,"deny":[' .. items[math.random(#items)] .. "]}")
    elseif kind <= 9 then
        return post(user .. "/events", '{"events":[{"item":' .. items[math.random(#items)] .. "}]}")
    end
    return wrk.format("GET", "/v1/items?limit=5&query=" .. string.char(math.random(97, 122)))
end

function post(path, body)
    return wrk.format("POST", path, { ["Content-Type"] = "application/json" }, body)
end

function response(status, headers, body)
    if status ~= 200 then
        bad = bad + 1
        told = status .. " " .. body
    end
end

function done(summary, latency)
    local errors = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
    for _, thread in ipairs(threads) do
        errors = errors + thread:get("bad")
        told = told == "" and thread:get("told") or told
    end
    print(string.format("requests %d, %.1f a second", summary.requests, summary.requests / summary.duration * 1e6))
    print(string.format("latency in ms: p50 %.2f, p95 %.2f, p99 %.2f, longest %.2f", latency:percentile(50) / 1000,
        latency:percentile(95) / 1000, latency:percentile(99) / 1000, latency.max / 1000))
    print("errors " .. errors)
    if told ~= "" then
        print(told)
    end
end
