package kvnode

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"lockstep/internal/resp"
)

const (
	// latencySamples is how many samples of an event are kept, as in Redis.
	latencySamples = 160
	// graphWidth and graphHeight are the size of LATENCY GRAPH, in characters.
	graphWidth, graphHeight = 80, 4
)

// latencySample is the worst execution of one second.
type latencySample struct {
	at           int64 // seconds since 1970 UTC
	milliseconds int64
}

// latencyEvent is a kind of thing that took long: "command", "fast-command".
type latencyEvent struct {
	name    string
	samples []latencySample // oldest first
	most    int64           // milliseconds, of all times
}

// latencyMonitor keeps executions that took at least latency-monitor-threshold.
type latencyMonitor struct {
	mu     sync.Mutex
	events []*latencyEvent // sorted by name
}

func (m *latencyMonitor) add(name string, duration time.Duration) {
	now, took := time.Now().Unix(), duration.Milliseconds()
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.find(name)
	if e == nil {
		e = &latencyEvent{name: name}
		m.events = append(m.events, e)
		slices.SortFunc(m.events, func(a, b *latencyEvent) int { return strings.Compare(a.name, b.name) })
	}
	e.most = max(e.most, took)
	if last := len(e.samples) - 1; last >= 0 && e.samples[last].at == now {
		e.samples[last].milliseconds = max(e.samples[last].milliseconds, took)
		return
	}
	if len(e.samples) == latencySamples {
		e.samples = slices.Delete(e.samples, 0, 1)
	}
	e.samples = append(e.samples, latencySample{now, took})
}

// find returns an event or nil. Called with mu held.
func (m *latencyMonitor) find(name string) *latencyEvent {
	for _, e := range m.events {
		if e.name == name {
			return e
		}
	}
	return nil
}

// noteLatency is told how long a command took.
func (n *Node) noteLatency(command *command, duration time.Duration) {
	if from := n.settings.latencyFrom.Load(); from > 0 && duration.Milliseconds() >= from {
		name := "command"
		if command.fast {
			name = "fast-command"
		}
		n.shell.latency.add(name, duration)
	}
}

func latencyLatest(c *conn, _ [][]byte) {
	m := &c.node.shell.latency
	m.mu.Lock()
	defer m.mu.Unlock()
	c.reply.Array(len(m.events))
	for _, e := range m.events {
		last := e.samples[len(e.samples)-1]
		c.reply.Array(4)
		c.reply.BulkString(e.name)
		c.reply.Int(last.at)
		c.reply.Int(last.milliseconds)
		c.reply.Int(e.most)
	}
}

func latencyHistory(c *conn, args [][]byte) {
	m := &c.node.shell.latency
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.find(string(args[2]))
	if e == nil {
		c.reply.Array(0)
		return
	}
	c.reply.Array(len(e.samples))
	for _, s := range e.samples {
		c.reply.Array(2)
		c.reply.Int(s.at)
		c.reply.Int(s.milliseconds)
	}
}

func latencyReset(c *conn, args [][]byte) {
	m := &c.node.shell.latency
	m.mu.Lock()
	defer m.mu.Unlock()
	before := len(m.events)
	m.events = slices.DeleteFunc(m.events, func(e *latencyEvent) bool {
		return len(args) == 2 || slices.ContainsFunc(args[2:], func(name []byte) bool { return string(name) == e.name })
	})
	c.reply.Int(int64(before - len(m.events)))
}

// latencyGraph draws the samples of an event, the newest at the right.
func latencyGraph(c *conn, args [][]byte) {
	m := &c.node.shell.latency
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.find(string(args[2]))
	if e == nil {
		c.reply.Error("ERR No samples available for event '" + string(args[2]) + "'")
		return
	}
	c.reply.Verbatim("txt", e.graph(time.Now().Unix()))
}

// graphFill are the characters with which a column of the graph ends, by the thirds of a row that it fills.
const graphFill = "_o#"

// graph draws as Redis does: a column for each sample, filled to its share of the range from the lowest to the highest one, and below
// it how long ago the sample was, letter by letter downwards. More samples than columns go on in another drawing below.
func (e *latencyEvent) graph(now int64) string {
	low, high := e.samples[0].milliseconds, e.samples[0].milliseconds
	for _, s := range e.samples {
		low, high = min(low, s.milliseconds), max(high, s.milliseconds)
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%s - high %d ms, low %d ms (all time high %d ms)\n%s\n", e.name, high, low, e.most, strings.Repeat("-", graphWidth))
	for i, part := range slices.Collect(slices.Chunk(e.samples, graphWidth)) {
		if i > 0 {
			out.WriteString("\n")
		}
		drawSamples(&out, part, low, max(high-low, 1))
		labels := make([]string, len(part))
		longest := 0
		for i, s := range part {
			labels[i] = agoLabel(now - s.at)
			longest = max(longest, len(labels[i]))
		}
		for row := -1; row < longest; row++ { // the first one is empty
			for _, label := range labels {
				if row < 0 || row >= len(label) {
					out.WriteByte(' ')
				} else {
					out.WriteByte(label[row])
				}
			}
			out.WriteByte('\n')
		}
	}
	return out.String()
}

// drawSamples draws the columns of samples whose lowest value is low and whose range is extent.
func drawSamples(out *strings.Builder, samples []latencySample, low, extent int64) {
	const steps = int64(len(graphFill) * graphHeight)
	for row := graphHeight - 1; row >= 0; row-- {
		for _, s := range samples {
			step := int(min((s.milliseconds-low)*steps/extent, steps-1))
			switch above := step - row*len(graphFill); {
			case above < 0:
				out.WriteByte(' ')
			case above < len(graphFill):
				out.WriteByte(graphFill[above])
			default:
				out.WriteByte('|')
			}
		}
		out.WriteByte('\n')
	}
}

// agoLabel tells a number of seconds in the largest unit that fits.
func agoLabel(seconds int64) string {
	switch {
	case seconds < 60:
		return fmt.Sprintf("%ds", seconds)
	case seconds < 60*60:
		return fmt.Sprintf("%dm", seconds/60)
	case seconds < 24*60*60:
		return fmt.Sprintf("%dh", seconds/(60*60))
	}
	return fmt.Sprintf("%dd", seconds/(24*60*60))
}

func latencyDoctor(c *conn, _ [][]byte) {
	from := c.node.settings.latencyFrom.Load()
	m := &c.node.shell.latency
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case from == 0 && len(m.events) == 0:
		c.reply.Verbatim("txt", "The latency monitor is off. CONFIG SET latency-monitor-threshold <milliseconds> switches it on for this node."+
			" LATENCY HISTOGRAM, INFO latencystats and SLOWLOG GET tell the execution time of commands without it.\n")
		return
	case len(m.events) == 0:
		c.reply.Verbatim("txt", fmt.Sprintf("No command of this node took %d ms or more since the latency monitor was reset.\n", from))
		return
	}
	var out strings.Builder
	out.WriteString("Commands of this node that took long (waiting for the group is not counted):\n\n")
	for i, e := range m.events {
		sum := int64(0)
		for _, s := range e.samples {
			sum += s.milliseconds
		}
		fmt.Fprintf(&out, "%d. %s: %d latency spikes (average %d ms, worst all time event %d ms).\n", i+1, e.name, len(e.samples), sum/int64(len(e.samples)), e.most)
	}
	out.WriteString("\nSLOWLOG GET shows which commands they were. Prefer commands whose time does not grow with the value, and smaller values.\n")
	c.reply.Verbatim("txt", out.String())
}

// latencyHistogram is LATENCY HISTOGRAM [command ...]: calls, and how many took at most so many microseconds.
func latencyHistogram(c *conn, args [][]byte) {
	var chosen []*command
	for _, command := range c.node.commands.all {
		if command.stats.timed() && (len(args) == 2 || namesCommand(args[2:], command)) {
			chosen = append(chosen, command)
		}
	}
	r := &c.reply
	r.Map(len(chosen))
	for _, command := range chosen {
		r.BulkString(command.name)
		command.stats.reply(r)
	}
}

// namesCommand reports whether one of the names is that of the command or of the one it is a subcommand of.
func namesCommand(names [][]byte, command *command) bool {
	whole, _, _ := strings.Cut(command.name, "|")
	for _, name := range names {
		if isWord(name, command.name) || isWord(name, whole) {
			return true
		}
	}
	return false
}

// reply appends the histogram: cumulative counts for the buckets that grow.
func (s *commandStats) reply(r *resp.Reply) {
	var bounds, counts []int64
	sum := int64(0)
	for i := range s.buckets {
		if n := s.buckets[i].Load(); n > 0 {
			sum += n
			bounds, counts = append(bounds, bucketBound(i)/int64(time.Microsecond)), append(counts, sum)
		}
	}
	r.Map(2)
	r.BulkString("calls")
	r.Int(sum)
	r.BulkString("histogram_usec")
	r.Map(len(bounds))
	for i := range bounds {
		r.Int(bounds[i])
		r.Int(counts[i])
	}
}
