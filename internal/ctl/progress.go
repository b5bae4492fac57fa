package ctl

import (
	"fmt"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
)

// progress shows how far long work is: on a terminal as a bar, which goes away when the work is done; elsewhere, and beside output for programs, as a
// line now and then. One goroutine at a time uses it.
type progress struct {
	screen *screen
	bytes  bool // what is counted; otherwise things
	what   string
	bar    *progressbar.ProgressBar // nil while there is none
	last   time.Time
}

const (
	lineEvery = 2 * time.Second
	barEvery  = 100 * time.Millisecond
)

func (s *screen) bytesDone() *progress  { return &progress{screen: s, bytes: true, last: time.Now()} }
func (s *screen) thingsDone() *progress { return &progress{screen: s, last: time.Now()} }

// drawsBars reports whether remarks go to somebody who looks: then a bar may be drawn and taken away again. It has no colours.
func (s *screen) drawsBars() bool {
	file, isFile := s.notes.(*os.File)
	return s.human() && isFile && isTerminal(file) && os.Getenv("TERM") != "dumb"
}

// every is how often it is worth to say how far the work is.
func (p *progress) every() time.Duration {
	if p.screen.drawsBars() {
		return barEvery
	}
	return lineEvery
}

// tell says how far the work is. A total of 0 is not known.
func (p *progress) tell(what string, done, total int64) {
	if p.screen.drawsBars() {
		p.draw(what, done, total)
		return
	}
	if time.Since(p.last) < lineEvery {
		return
	}
	p.last = time.Now()
	count := func(n int64) string {
		if p.bytes {
			return size(uint64(max(n, 0)))
		}
		return fmt.Sprint(n)
	}
	if total <= 0 {
		p.screen.note(fmt.Sprintf("%s: %s", what, count(done)))
		return
	}
	p.screen.note(fmt.Sprintf("%s: %s of %s (%d %%)", what, count(done), count(total), min(done, total)*100/total))
}

func (p *progress) draw(what string, done, total int64) {
	if p.bar != nil && p.what != what {
		p.end()
	}
	if total <= 0 {
		total = -1
	}
	if p.bar == nil {
		p.what = what
		p.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(p.screen.notes), progressbar.OptionSetDescription(what), progressbar.OptionSetWidth(30),
			progressbar.OptionShowBytes(p.bytes), progressbar.OptionShowCount(), progressbar.OptionThrottle(barEvery), progressbar.OptionUseANSICodes(false),
			progressbar.OptionEnableColorCodes(false), progressbar.OptionClearOnFinish())
	}
	if total > 0 {
		done = min(done, total)
	}
	_ = p.bar.Set64(done) // fails where it cannot be drawn: the work goes on
}

// end takes the bar away. The work may go on with another one.
func (p *progress) end() {
	if p.bar != nil {
		_ = p.bar.Clear()
		_ = p.bar.Exit()
		p.bar = nil
	}
}
