-- Pktgen-DPDK's part of the search for the throughput: perf/throughput sends this to its Lua socket (pktgen … -- -G), then calls it. What
-- is sent is set before, by a command file (-f acks-1000.pkt) or a capture (-s 0:acks-1000.pcap): command lines cannot be run from the
-- socket, whose thread has no command line (23.06 ends by a segmentation fault).
--
-- io.write goes to whoever asked by the socket, print to Pktgen's own screen.

local function answer(text)
    io.write(text, "\n")
    io.flush()
end

-- What a port has counted since it started.
local function counted(port)
    local stats = pktgen.portStats(tostring(port), "port")[port]
    return { sent = stats.opackets, received = stats.ipackets, missed = stats.imissed + stats.rx_nombuf }
end

-- The port's line, in millions of bits a second: `set rate` is a share of it.
function bench_line(port)
    local state = pktgen.linkState(tostring(port))[port]
    local mbits = tostring(state):match("(%d+)")
    answer("line " .. (mbits or "down"))
end

-- How many frames it sends at once: what the last line of a command file sets.
function bench_burst(port)
    answer("burst " .. math.floor(pktgen.portInfo(tostring(port))[port].info.tx_burst))
end

-- Sends `count` frames at `percent` of the line from one port, which takes some `seconds`, goes on receiving at the other for `wait`
-- seconds, and says what came of them. Lua has no clock: who asks takes the time between "begun" and "ended".
function bench_trial(sends, receives, percent, count, seconds, wait)
    local port = tostring(sends)
    pktgen.set(port, "rate", string.format("%.6f", percent))
    pktgen.set(port, "count", math.floor(count))
    local sent, received = counted(sends), counted(receives)
    local start = os.time()
    pktgen.start(port)
    answer("begun")
    -- Who cannot keep the rate is stopped.
    while pktgen.isSending(port)[sends] == "y" and os.time() - start <= seconds * 1.5 + 1 do
        pktgen.delay(10)
    end
    pktgen.stop(port)
    answer("ended")
    -- Pktgen reads its ports' counters once a second.
    pktgen.delay(math.floor(math.max(wait, 2.2) * 1000))
    local sent_after, received_after = counted(sends), counted(receives)
    answer(string.format("trial sent=%d returned=%d missed=%d", sent_after.sent - sent.sent,
        received_after.received - received.received, received_after.missed - received.missed))
end
