package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"get.podrun.dev/podrun/node"
)

// redraw bounds how often a bar moves.
const redraw = 80 * time.Millisecond

// bars shows the progress of pulls: on a terminal a bar for each layer that
// moves in place, elsewhere a line for each step. show is safe for concurrent
// use.
type bars struct {
	mu    sync.Mutex
	out   io.Writer
	width int // of the terminal in columns; 0 when it is none
	rows  int // of the terminal
	lines []bar
	// warnings are for the end, when no bar moves any more.
	warnings []string
}

type bar struct {
	layer  string
	last   node.Progress
	drawn  time.Time
	behind bool // last is newer than what is on the screen
}

func newBars(f *os.File) *bars {
	b := &bars{out: f}
	if isTerminal(f) {
		if cols, rows, err := term.GetSize(int(f.Fd())); err == nil && os.Getenv("TERM") != "dumb" {
			b.width, b.rows = cols, rows
		}
	}
	return b
}

// show takes one step of a pull.
func (b *bars) show(p node.Progress) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, w := range p.Warnings {
		b.warnings = append(b.warnings, fmt.Sprintf("layer %s: %s", p.Layer, w))
	}
	i := 0
	for i < len(b.lines) && b.lines[i].layer != p.Layer {
		i++
	}
	isNew := i == len(b.lines)
	if isNew {
		b.lines = append(b.lines, bar{layer: p.Layer})
	}
	line := &b.lines[i]
	changed := isNew || line.last.Status != p.Status
	line.last = p
	switch {
	case b.width == 0 && changed:
		fmt.Fprintf(b.out, "%s: %s\n", p.Layer, p.Status)
	case b.width == 0:
	case isNew:
		line.drawn = time.Now()
		fmt.Fprintf(b.out, "%s\n", b.text(p))
	case changed || time.Since(line.drawn) >= redraw:
		b.draw(i)
	default:
		line.behind = true
	}
}

// draw writes line i where it is. A line that has left the screen by its top
// stays as it was.
func (b *bars) draw(i int) {
	up := len(b.lines) - i
	line := &b.lines[i]
	line.drawn, line.behind = time.Now(), false
	if up >= b.rows {
		return
	}
	fmt.Fprintf(b.out, "\x1b[%dA\r\x1b[2K%s\x1b[%dB\r", up, b.text(line.last), up)
}

// done draws what is not yet on the screen.
func (b *bars) done() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.lines {
		if b.lines[i].behind {
			b.draw(i)
		}
	}
}

// text is one line of at most the terminal's width: LAYER: STATUS [==> ] 3MB/5MB.
func (b *bars) text(p node.Progress) string {
	text := p.Layer + ": " + p.Status
	if p.Total > 0 && p.Done < p.Total {
		amounts := fmt.Sprintf(" %s/%s", bytesText(p.Done), bytesText(p.Total))
		if room := min(b.width-len(text)-len(amounts)-4, 50); room >= 10 {
			filled := int(int64(room) * p.Done / p.Total)
			text += " [" + strings.Repeat("=", filled) + ">" + strings.Repeat(" ", room-filled) + "]"
		}
		text += amounts
	}
	return text[:min(len(text), max(b.width-1, 0))]
}

// bytesText is an amount as docker shows it: in decimal units, three digits.
func bytesText(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB"}
	value, unit := float64(n), 0
	for value >= 1000 && unit < len(units)-1 {
		value /= 1000
		unit++
	}
	return fmt.Sprintf("%.4g%s", value, units[unit])
}
