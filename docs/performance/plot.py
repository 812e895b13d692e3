#!/usr/bin/env python3
"""Draws the plots and the tables of docs/performance.md from results.jsonl. measure.sh has what it
measured put in there: plot.py [FRESH MACHINE]."""

import json
import math
import pathlib
import statistics
import sys

HERE = pathlib.Path(__file__).parent
PAGE = HERE.parent / "performance.md"
RESULTS = HERE / "results.jsonl"
COLOURS = {
    "whimbrel": "#0a6", "mosquitto": "#36c", "flashmq": "#a3c", "rumqttd": "#c63", "null": "#999"
}
NAMES = {"null": "null relay", "flashmq": "FlashMQ"}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 360, 70, 130, 36, 48


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def place(row):
    """A line of a plot or a column of a table: all that is in it was measured together."""
    return row["plot"], row["broker"]


def take(fresh, machine):
    """Puts in what was measured now, and forgets what was of the same before."""
    rows = [row for row in rows_of(fresh) if "plot" in row]
    if not rows:
        return
    measured = {place(row) for row in rows}
    kept = [row for row in rows_of(RESULTS) if "plot" in row and place(row) not in measured]
    lines = [json.dumps(row, separators=(",", ":")) for row in rows_of(machine) + kept + rows]
    RESULTS.write_text("\n".join(lines) + "\n")


def read():
    rows = rows_of(RESULTS)
    return [row for row in rows if "machine" in row], [row for row in rows if "plot" in row]


def series(rows, plot, figure):
    """{broker: [(x, median of the figure)]} of the sound runs."""
    found = {}
    for row in rows:
        value = row.get(figure)
        if row["plot"] == plot and row.get("ok") and value is not None:
            found.setdefault(row["broker"], {}).setdefault(row["x"], []).append(value)
    return {
        broker: sorted((x, statistics.median(values)) for x, values in points.items())
        for broker, points in found.items()
    }


def decades(low, high):
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [10.0**n for n in range(first, max(last, first + 1) + 1)]


def short(value):
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g}"


def draw(name, title, across, up, lines):
    """A line for each broker, both axes logarithmic."""
    points = [point for line in lines.values() for point in line if point[0] > 0 and point[1] > 0]
    if not points:
        return
    xs = sorted({x for x, _ in points})
    ticks = decades(min(y for _, y in points), max(y for _, y in points))
    low, high = math.log10(ticks[0]), math.log10(ticks[-1])
    left, right = math.log10(xs[0]), math.log10(xs[-1])

    def at(x, y):
        across = (math.log10(x) - left) / ((right - left) or 1)
        above = (math.log10(y) - low) / (high - low)
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - above * (HEIGHT - TOP - BOTTOM),
        )

    text = 'font-family="sans-serif" font-size="12" fill="#222"'
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="20" {text} font-weight="bold">{title}</text>',
        f'<text x="{LEFT}" y="{HEIGHT - 8}" {text}>{across}</text>',
        f'<text transform="translate(14 {HEIGHT - BOTTOM}) rotate(-90)" {text}>{up}</text>',
    ]
    for tick in ticks:
        y = at(xs[0], tick)[1]
        svg.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        svg.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" {text} text-anchor="end">{short(tick)}</text>')
    for x in xs:
        place = at(x, ticks[0])[0]
        svg.append(
            f'<text x="{place:.1f}" y="{HEIGHT - BOTTOM + 16}" {text} text-anchor="middle">{short(x)}</text>'
        )
    for n, (broker, line) in enumerate(sorted(lines.items())):
        colour = COLOURS.get(broker, "#000")
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in line))
        svg.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for point in line:
            x, y = at(*point)
            svg.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
        y = TOP + 16 * n
        svg.append(f'<rect x="{WIDTH - RIGHT + 12}" y="{y}" width="12" height="4" fill="{colour}"/>')
        svg.append(f'<text x="{WIDTH - RIGHT + 30}" y="{y + 6}" {text}>{NAMES.get(broker, broker)}</text>')
    svg.append("</svg>")
    (HERE / f"{name}.svg").write_text("\n".join(svg) + "\n")


def brokers_of(rows):
    known = list(COLOURS)
    found = {row["broker"] for row in rows}
    return sorted(found, key=lambda broker: known.index(broker) if broker in known else len(known))


def figure(value, digits=3):
    return "–" if value is None else f"{value:.{digits}g}" if value < 999 else f"{value:,.0f}"


def table(head, body):
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in body])


def standard(rows):
    """Processor time of the broker a unit, and the memory of a unit."""
    runs = [row for row in rows if row["plot"] == "standard" and row.get("ok")]
    brokers = brokers_of(runs)
    cpu, memory = [], []
    for scenario in dict.fromkeys(row["tag"] for row in runs):
        def of(broker, key):
            return median(runs, key, tag=scenario, broker=broker)

        cpu.append([scenario] + [figure(of(broker, "cpu_us")) for broker in brokers])
        sizes = [of(broker, "mem_bytes_per_unit") for broker in brokers]
        if any(size is not None for size in sizes):
            memory.append([scenario] + [figure(size) for size in sizes])
    names = [NAMES.get(broker, broker) for broker in brokers]
    return table(["CPU µs a unit"] + names, cpu), table(["bytes a unit"] + names, memory)


def by_x(rows, plot, key, head):
    lines = series(rows, plot, key)
    brokers = brokers_of([{"broker": broker} for broker in lines])
    xs = sorted({x for line in lines.values() for x, _ in line})
    body = [[short(x)] + [figure(dict(lines[broker]).get(x)) for broker in brokers] for x in xs]
    return table([head] + [NAMES.get(broker, broker) for broker in brokers], body)


def median(rows, figure_of, **places):
    """The median of a figure in the sound runs that have these values."""
    values = [
        row[figure_of]
        for row in rows
        if row.get("ok") and row.get(figure_of) is not None
        and all(row.get(key) == value for key, value in places.items())
    ]
    return statistics.median(values) if values else None


def ratio(value, of):
    return "–" if value is None or not of else f"{value / of:.2f}"


def relay(rows):
    """Throughput beside the null relay's."""
    body = []
    cases = [("standard", {"tag": tag}, tag) for tag in ("q0-pairs", "q1-pairs", "q2-pairs", "q0-fanout")]
    cases += [("payload", {"x": x}, f"q0, {short(x)} bytes") for x in (16, 1024, 65536)]
    for plot, where, name in cases:
        rates = [median(rows, "rate", plot=plot, broker=b, **where) for b in ("whimbrel", "null")]
        costs = [median(rows, "cpu_us", plot=plot, broker=b, **where) for b in ("whimbrel", "null")]
        body.append([name, *map(figure, rates), ratio(*rates), *map(figure, costs)])
    head = ["", "messages/s", "null relay", "ratio", "CPU µs each", "null relay"]
    return table(head, body)


def fanout(rows):
    runs = [row for row in rows if row["plot"] == "fanout"]
    body = []
    for broker in brokers_of(runs):
        figures = [median(runs, key, broker=broker) for key in ("p50_us", "p999_us", "max_us")]
        body.append([NAMES.get(broker, broker), *map(figure, figures)])
    return table(["1,000 subscribers, µs until a message is at", "half of them", "the last one",
                  "the last one, at worst"], body)


def neighbour(rows):
    """Latency of a calm stream, alone and beside others that are not."""
    what = {"none": "nobody", "flood": "a publisher without end", "greedy": "who asks for all retained again and again",
            "stuck": "a flood for one who does not read"}
    found = [row for row in rows if row["plot"].startswith("neighbour")]
    brokers = brokers_of(found)
    body = []
    for qos in (0, 1):
        for kind, said in what.items():
            line = [f"QoS {qos}, {said}"]
            for broker in brokers:
                places = {"plot": f"neighbour-{qos}", "broker": broker}
                p50, p99 = (median(found, key, x=kind, **places) for key in ("p50_us", "p99_us"))
                alone = median(found, "p99_us", x="none", **places)
                line.append(f"{figure(p50)}, {figure(p99)} ({ratio(p99, alone)})")
            body.append(line)
    return table(["p50, p99 in µs (p99 by that beside nobody)"] + [NAMES.get(b, b) for b in brokers], body)


def workers(rows):
    body = []
    for qos in (0, 1):
        for pairs, said in ((20, "each pair on one worker"), (21, "each pair on two")):
            plot = f"workers-{qos}-{pairs}"
            one, two = (median(rows, "cpu_us", plot=plot, x=x) for x in (1, 2))
            gain = None if not one or not two else 2 * one / two
            body.append([f"QoS {qos}, {said}", figure(one), figure(two), figure(gain)])
    return table(["CPU µs a message", "1 worker", "2 workers", "two do as much as"], body)


def million(rows):
    brokers = brokers_of([row for row in rows if row["plot"].startswith("million")])
    cases = (
        ("million-retained", "mem_bytes_per_unit", "bytes a retained message, of 1,000,000"),
        ("million-retained", "stored_per_s", "of them retained in a second"),
        ("million-retained", "hand_out_s", "seconds until one `#` has them all"),
        ("million-stream", "p50_us", "p50 of a stream meanwhile, µs"),
        ("million-stream", "p99_us", "p99"),
        ("million-stream", "max_us", "maximum"),
        ("route-exact", "sub_cpu_us", "CPU µs a subscription, exact, of 1,000,000"),
        ("route-plus", "sub_cpu_us", "with `+`"),
        ("route-hash", "sub_cpu_us", "with `#`"),
        ("route-exact", "subscribed_per_s", "subscriptions in a second, exact"),
        ("route-exact", "mem_bytes_per_unit", "bytes a subscription, exact"),
        ("route-plus", "mem_bytes_per_unit", "with `+`"),
        ("million-sessions", "mem_bytes_per_unit", "bytes a Session that is away, with a subscription"),
        ("million-sessions", "cpu_us", "CPU µs to connect, subscribe and leave it"),
    )
    body = []
    for plot, key, said in cases:
        large = [row for row in rows if row["plot"] == plot and row["x"] >= 200_000]
        body.append([said] + [figure(median(large, key, broker=broker)) for broker in brokers])
    return table([""] + [NAMES.get(broker, broker) for broker in brokers], body)


def put(page, name, text):
    """Replaces what stands between the marks of this name."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, rest = page.split(begin)
    after = rest.split(end)[1]
    return f"{before}{begin}\n{text}\n{end}{after}"


def main():
    if len(sys.argv) == 3:
        take(*map(pathlib.Path, sys.argv[1:]))
    machines, rows = read()
    draw("payload", "Throughput, QoS 0, one to one", "payload in bytes", "messages/s",
         series(rows, "payload", "rate"))
    draw("latency", "Latency, QoS 1, 256 B: 99th percentile", "messages/s", "µs",
         series(rows, "latency", "p99_us"))
    draw("tail", "Latency, QoS 1, 256 B: 999 of 1,000 messages", "messages/s", "µs",
         series(rows, "latency", "p999_us"))
    draw("memory", "Memory with idle connections, one subscription each", "connections", "KiB",
         series(rows, "memory", "broker_rss_kb"))
    routes = {}
    for shape in ("exact", "plus", "hash"):
        for broker, line in series(rows, f"route-{shape}", "cpu_us").items():
            if broker == "whimbrel":
                routes[shape] = line
    COLOURS.update(exact="#0a6", plus="#36c", hash="#c63")
    draw("route", "Whimbrel: cost of a message by subscriptions", "subscriptions", "CPU µs", routes)
    for name in ("exact", "plus", "hash"):
        COLOURS.pop(name)
    cpu, sizes = standard(rows)
    page = PAGE.read_text()
    for name, text in {
        "machine": "\n".join(
            f"{row['machine']}; Linux {row['kernel']}; {row['versions']}." for row in machines
        ),
        "cpu": cpu,
        "sizes": sizes,
        "payload": by_x(rows, "payload", "cpu_us", "CPU µs a message, payload in bytes"),
        "payload-v5": by_x(rows, "payload-v5", "cpu_us", "the same with MQTT 5.0"),
        "relay": relay(rows),
        "latency-p50": by_x(rows, "latency", "p50_us", "p50 in µs, messages/s"),
        "latency": by_x(rows, "latency", "p99_us", "p99"),
        "latency-p999": by_x(rows, "latency", "p999_us", "p99.9"),
        "fanout": fanout(rows),
        "neighbour": neighbour(rows),
        "workers": workers(rows),
        "million": million(rows),
        "memory": by_x(rows, "memory", "mem_bytes_per_unit", "bytes a connection, connections"),
        "route-exact": by_x(rows, "route-exact", "cpu_us", "CPU µs a message, exact filters"),
        "route-plus": by_x(rows, "route-plus", "cpu_us", "the same, filters with `+`"),
        "route-hash": by_x(rows, "route-hash", "cpu_us", "the same, filters with `#`"),
    }.items():
        page = put(page, name, text)
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
