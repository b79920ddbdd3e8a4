"""The table, the bars, the plot."""

import html
import math

from rows_data import Fio


def describe(benchmarks):
    """Row -> (title, unit, mark, bars)."""
    rows = {}
    for b in benchmarks:
        for row in b.rows:
            if isinstance(b, Fio):
                rows[row] = (b.title, b.unit, b.mark, b.bars)
            else:
                rows[row] = (b.title_of[row], b.unit_of[row], "", b.bars_of.get(row, {}))
    return rows


def ratio(unit, ours, theirs):
    """How many times as fast as they we are."""
    return theirs / ours if unit in ("s", "us") else ours / theirs


def number(value):
    """Three digits or all of them."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(medians, rows, settings):
    """Ratios first, absolute numbers in brackets."""
    others = [p for p in settings.peers if p != "inflight"]
    wide = {p: max(18, len(p) + 5) for p in others}
    lines = [f"{'':36} {'unit':7} {'inflight':>9}" + "".join(f"{'vs ' + p:>{wide[p]}}" for p in others)]
    for row, (title, unit, mark, _) in rows.items():
        found = medians.get(row, {})
        ours = found.get("inflight")
        line = f"{title + (' ' + mark if mark else ''):36} {unit:7} {number(ours) if ours else '-':>9}"
        for peer in others:
            theirs = found.get(peer)
            shown = f"{ratio(unit, ours, theirs):.2f}x " if ours and theirs else ""
            line += f"{shown + '(' + number(theirs) + ')' if theirs else '-':>{wide[peer]}}"
        lines.append(line)
    return lines


def verdicts(medians, rows):
    """One line a bar that is missed, and how many were met."""
    met, missed = 0, []
    for row, (title, unit, mark, bars) in rows.items():
        found = medians.get(row, {})
        if "inflight" not in found:
            continue
        for peer in found:
            if peer in ("fuse2fs", "ntfs-3g", "exfat"):
                bar = bars.get("peers", 1 / 1.2)
            elif peer in bars:
                bar = bars[peer]
            else:
                continue
            reached = ratio(unit, found["inflight"], found[peer])
            if reached >= bar:
                met += 1
            else:
                missed.append(f"MISSED  {title + ' ' + mark:38} {reached:.2f}x {peer}, the bar is {bar:.2f}x")
    return met, missed


def cpu_table(costs, rows, settings):
    """CPU seconds of the whole machine for a GiB, or for 10,000 operations or files."""
    wide = {p: max(14, len(p) + 2) for p in settings.peers}
    lines = [f"{'CPU seconds':36} {'for':7}" + "".join(f"{p:>{wide[p]}}" for p in settings.peers)]
    for row, (title, unit, mark, _) in rows.items():
        found = costs.get(row, {})
        shown = "".join(f"{number(found[p]) if p in found else '-':>{wide[p]}}" for p in settings.peers)
        lines.append(f"{title + (' ' + mark if mark else ''):36} {'GiB' if unit == 'MiB/s' else '10,000':7}" + shown)
    return lines


def report(result, rows, settings):
    """The whole table as text."""
    medians = result["medians"]
    lines = table(medians, rows, settings)
    if not settings.busy:
        lines += ["", *cpu_table(result["cpu"], rows, settings)]
    if result["memory_mib"]:
        lines += ["", "server memory, peak (VmHWM), MiB: " + ", ".join(f"{p} {number(m)}" for p, m in result["memory_mib"].items())]
    met, missed = verdicts(medians, rows)
    lines += ["", f"Medians of {settings.rounds} interleaved rounds, {settings.busy or 'no'} busy processes beside. Ratios above 1: "
              "Inflight is faster.", "In brackets the peer's own figure.",
              "c  cold image: fuse2fs and ntfs-3g answer O_DIRECT from the page cache of their image, so all caches are "
              "dropped", "   before each timed part, and writes end with fsync.",
              "h  hot image: the image is in the page cache, the mount's own cache is empty; Inflight's O_DIRECT rows with "
              "-o read=buffered.",
              f"The files are {settings.files:,}, the tree has {settings.tree_files:,}. The bars are those that the rows name; "
              "elsewhere no other", "FUSE filesystem may be more than 1.2 times as fast."]
    lines += missed
    lines += [f"FAILED  {failure}" for failure in result["failures"]]
    lines.append(f"{met} bars met, {len(missed)} missed, {len(result['failures'])} measurements failed")
    return "\n".join(lines)


def plot(medians, rows, settings):
    """An SVG: for each row and peer a bar from 1 to how many times as fast Inflight is, on a logarithmic axis."""
    others = [p for p in settings.peers if p != "inflight"]
    colours = ["#4878a8", "#d08040", "#6a9f58", "#a05a8c", "#888888", "#c0a030", "#50a0a0", "#b05050"]
    shown = [(title + (" " + mark if mark else ""), unit, medians[row]) for row, (title, unit, mark, _) in rows.items()
             if "inflight" in medians.get(row, {})]
    bar, left, right, top = 9, 290, 960, 50
    height = top + sum(bar * len(others) + 8 for _ in shown) + 30

    def across(times):
        """Pixels for a ratio, which is kept between 1/32 and 32."""
        exponent = max(-5.0, min(5.0, math.log2(times)))
        return left + (right - left) * (exponent + 5) / 10

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{right + 20}" height="{height}" font-family="sans-serif" font-size="11">',
             '<rect width="100%" height="100%" fill="white"/>']
    for exponent in range(-5, 6):
        at = across(2.0 ** exponent)
        label = f"{2 ** exponent}x" if exponent >= 0 else f"1/{2 ** -exponent}"
        parts += [f'<line x1="{at:.0f}" y1="{top - 6}" x2="{at:.0f}" y2="{height - 20}" stroke="{"#333" if exponent == 0 else "#ddd"}"/>',
                  f'<text x="{at:.0f}" y="{top - 10}" text-anchor="middle">{label}</text>']
    for place, (peer, colour) in enumerate(zip(others, colours * 2)):
        parts += [f'<rect x="{left + 130 * place}" y="8" width="10" height="10" fill="{colour}"/>',
                  f'<text x="{left + 14 + 130 * place}" y="17">{html.escape(peer)}</text>']
    y = top
    for title, unit, found in shown:
        parts.append(f'<text x="{left - 8}" y="{y + bar * len(others) / 2 + 4:.0f}" text-anchor="end">{html.escape(title)}</text>')
        for peer, colour in zip(others, colours * 2):
            if found.get(peer):
                times = ratio(unit, found["inflight"], found[peer])
                start, end = sorted((across(1.0), across(times)))
                parts.append(f'<rect x="{start:.1f}" y="{y}" width="{max(end - start, 1):.1f}" height="{bar - 1}" fill="{colour}">'
                             f'<title>{html.escape(peer)}: {times:.2f}</title></rect>')
            y += bar
        y += 8
    return "\n".join([*parts, "</svg>", ""])
