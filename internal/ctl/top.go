package ctl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"lockstep/internal/admin"
	"lockstep/internal/pause"
	"lockstep/internal/resp"
	"lockstep/proto"
)

// topPatience bounds the probe of one KV node.
const topPatience = 2 * time.Second

// topView is one look at a cluster.
type topView struct {
	Time        string     `json:"time"`
	Groups      []topGroup `json:"groups"`
	Confmasters []topPeer  `json:"confmasters"`
	Problem     string     `json:"problem"` // why it could not be looked at, "" if it could

	at time.Time
}

type topGroup struct {
	Name     string       `json:"name"`
	State    string       `json:"state"`
	Detail   string       `json:"detail"`
	Master   string       `json:"master"`
	Epoch    uint64       `json:"epoch"`
	Copies   uint32       `json:"copies"`
	Plan     string       `json:"plan"`
	Replicas []topReplica `json:"replicas"`
}

type topReplica struct {
	Node      string   `json:"node"`
	Role      string   `json:"role"`
	Commit    uint64   `json:"commit_lsn"`
	Applied   uint64   `json:"applied_lsn"`
	Lag       uint64   `json:"lag_bytes"`        // committed in the group and not executed here
	BytesRate *float64 `json:"bytes_per_second"` // executed; null at the first look
	Ops       *int64   `json:"ops_per_second"`   // commands; null if the node does not tell
	ReadMs    *float64 `json:"read_ms"`          // a linearizable read, there and back; null if it is not answered
}

type topPeer struct {
	Name   string `json:"name"`
	Leader bool   `json:"leader"`
	Up     bool   `json:"up"`
}

// topOrders are the columns by which replicas can be sorted.
var topOrders = []string{"node", "role", "lag", "bytes", "ops", "read"}

func newTop(s *screen) *cobra.Command {
	var at where
	var once bool
	var order string
	interval := period(time.Second)
	command := &cobra.Command{
		Use:   "top",
		Short: "A live screen: roles, LSNs, lag, rates and latencies",
		Long: `Shows every replica of every group, again and again, on the whole terminal. Keys:

  s        sort by the next column; r: the other way round
  p, space pause
  q        quit (as Ctrl-C)

READ MS is a linearizable read at that KV node, measured from here. OPS/S is what the node says; both are missing where it wants a password that was not given (--password-file).
Without a terminal, or with --once, one look is shown: after --interval, so that there are rates.`,
		Args: cobra.NoArgs,
		RunE: work(func(ctx context.Context, _ []string) error {
			if !slices.Contains(topOrders, order) {
				return usage("--sort %q%s: use one of %s", order, didYouMean(order, topOrders), strings.Join(topOrders, ", "))
			}
			client, err := at.dialAnswering(ctx)
			if err != nil {
				return err
			}
			defer client.Close()
			t := &top{screen: s, client: client, every: time.Duration(interval), order: order}
			out, isFile := s.out.(*os.File)
			if once || !s.human() || !isFile || !isTerminal(out) || !isTerminal(os.Stdin) {
				return t.once(ctx)
			}
			return t.live(ctx, out, os.Stdin)
		}),
	}
	at.addAll(command)
	at.addLogin(command)
	command.Flags().BoolVar(&once, "once", false, "show one look and end")
	command.Flags().StringVar(&order, "sort", "node", "`column`: "+strings.Join(topOrders, ", "))
	command.Flags().Var(&interval, "interval", "time between two looks, 50ms or more")
	complete(command, "sort", topOrders...)
	return command
}

// top is the live screen.
type top struct {
	screen   *screen
	client   *admin.Client
	every    time.Duration
	order    string
	reversed bool
	paused   bool
}

// look looks at everything. before is the look before, nil if there is none.
func (t *top) look(ctx context.Context, before *topView) *topView {
	v := &topView{at: time.Now(), Groups: []topGroup{}, Confmasters: []topPeer{}}
	v.Time = v.at.Format(timeForm)
	status, err := t.client.Status(ctx)
	if err != nil {
		v.Problem = err.Error()
		if before != nil {
			v.Groups, v.Confmasters = before.Groups, before.Confmasters
		}
		return v
	}
	for _, c := range status.GetConfmasters() {
		v.Confmasters = append(v.Confmasters, topPeer{"c" + strconv.FormatUint(c.GetId(), 10), c.GetLeader(), c.GetUp() || c.GetLeader()})
	}
	var probes sync.WaitGroup
	for _, g := range status.GetGroups() {
		group := topGroup{Name: g.GetName(), State: g.GetState(), Detail: g.GetDetail(), Master: g.GetMaster(), Epoch: g.GetEpoch(), Copies: g.GetCopies(), Plan: g.GetPlan()}
		highest := uint64(0)
		for _, r := range g.GetReplicas() {
			highest = max(highest, r.GetState().GetCommit())
		}
		group.Replicas = make([]topReplica, len(g.GetReplicas()))
		for i, r := range g.GetReplicas() {
			row := &group.Replicas[i]
			*row = topRow(r, highest)
			row.BytesRate = rateOf(v, before, g.GetName(), row)
			if addr := r.GetState().GetKvAddr(); r.GetUp() && addr != "" {
				probes.Go(func() { row.ReadMs, row.Ops = probeNode(ctx, t.client.Login, addr) })
			}
		}
		v.Groups = append(v.Groups, group)
	}
	probes.Wait()
	return v
}

func topRow(r *proto.ReplicaStatus, highest uint64) topReplica {
	state := r.GetState()
	row := topReplica{Node: r.GetNode(), Role: state.GetRole(), Commit: state.GetCommit(), Applied: state.GetApplied(), Lag: highest - min(state.GetApplied(), highest)}
	if !r.GetUp() {
		row.Role = "down"
	}
	return row
}

// rateOf is how many bytes of the log a node has executed in a second since the look before.
func rateOf(now, before *topView, group string, row *topReplica) *float64 {
	if before == nil {
		return nil
	}
	for _, g := range before.Groups {
		for i := range g.Replicas {
			if old := &g.Replicas[i]; g.Name == group && old.Node == row.Node && row.Applied >= old.Applied {
				rate := float64(row.Applied-old.Applied) / max(now.at.Sub(before.at).Seconds(), 1e-3)
				return &rate
			}
		}
	}
	return nil
}

// probeNode measures a linearizable read, and asks for the rate of commands.
func probeNode(ctx context.Context, login admin.Login, addr string) (readMs *float64, ops *int64) {
	ctx, cancel := context.WithTimeout(ctx, topPatience)
	defer cancel()
	conn, err := login.DialRedis(ctx, addr)
	if err != nil {
		return nil, nil
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if conn.SetDeadline(deadline) != nil {
		return nil, nil
	}
	began := time.Now()
	reply, err := askOnce(conn, "*2\r\n$6\r\nEXISTS\r\n$8\r\nlockstep\r\n")
	if err != nil || reply.Kind != ':' {
		return nil, nil
	}
	ms := float64(time.Since(began).Microseconds()) / 1000
	if reply, err = askOnce(conn, "*2\r\n$4\r\nINFO\r\n$5\r\nstats\r\n"); err != nil {
		return &ms, nil
	}
	_, rest, found := strings.Cut(reply.Text, "instantaneous_ops_per_sec:")
	line, _, _ := strings.Cut(rest, "\r\n")
	rate, err := strconv.ParseInt(line, 10, 64)
	if !found || err != nil {
		return &ms, nil
	}
	return &ms, &rate
}

// askOnce sends a request and reads one reply, of 1 MiB at most.
func askOnce(conn net.Conn, request string) (resp.Value, error) {
	if _, err := io.WriteString(conn, request); err != nil {
		return resp.Value{}, err
	}
	var in []byte
	chunk := make([]byte, 16<<10)
	for len(in) < 1<<20 {
		n, err := conn.Read(chunk)
		if err != nil {
			return resp.Value{}, err
		}
		in = append(in, chunk[:n]...)
		value, used, err := resp.Decode(in)
		if err != nil || used > 0 {
			return value, err
		}
	}
	return resp.Value{}, errors.New("the reply is too long")
}

// once shows one look.
func (t *top) once(ctx context.Context) error {
	first := t.look(ctx, nil)
	if !pause.For(ctx, t.every) {
		return ctx.Err()
	}
	v := t.look(ctx, first)
	return t.screen.show(v, func() { t.screen.printf("%s\n", strings.Join(t.render(v, 0, 0), "\n")) })
}

// live shows look after look until a key or ctx ends it. The terminal is left as it was.
func (t *top) live(ctx context.Context, out, in *os.File) error {
	restore, err := rawTerminal(in)
	if err != nil {
		return fmt.Errorf("read keys: %w", err)
	}
	defer restore()
	t.screen.printf("\x1b[?1049h\x1b[?25l")       // another screen, no cursor
	defer t.screen.printf("\x1b[?25h\x1b[?1049l") // back
	keys := make(chan byte)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // it ends with the process, or with the next key
		one := make([]byte, 1)
		for {
			if n, err := in.Read(one); err != nil || n == 0 {
				cancel()
				return
			}
			select {
			case keys <- one[0]:
			case <-ctx.Done():
				return
			}
		}
	}()
	looks := make(chan *topView)
	go func() {
		tick := time.NewTicker(t.every)
		defer tick.Stop()
		var before *topView
		for {
			before = t.look(ctx, before)
			select {
			case looks <- before:
			case <-ctx.Done():
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	var shown *topView
	for {
		select {
		case <-ctx.Done():
			return nil
		case v := <-looks:
			if t.paused {
				continue
			}
			shown = v
		case key := <-keys:
			if !t.press(key) {
				return nil
			}
		}
		if shown != nil {
			t.draw(shown, out)
		}
	}
}

// press does what a key says; it reports whether the screen goes on.
func (t *top) press(key byte) bool {
	switch key {
	case 'q', 'Q', 3, 4: // Ctrl-C and Ctrl-D as bytes
		return false
	case 'p', ' ':
		t.paused = !t.paused
	case 's':
		t.order = topOrders[(slices.Index(topOrders, t.order)+1)%len(topOrders)]
	case 'r':
		t.reversed = !t.reversed
	}
	return true
}

// draw writes the whole screen at once.
func (t *top) draw(v *topView, out *os.File) {
	width, height := 80, 24
	if size, err := unix.IoctlGetWinsize(int(out.Fd()), unix.TIOCGWINSZ); err == nil && size.Col > 0 && size.Row > 0 {
		width, height = int(size.Col), int(size.Row)
	}
	t.screen.printf("\x1b[H%s\x1b[K\x1b[J", strings.Join(t.render(v, width, height), "\x1b[K\r\n"))
}

// render lays a look out. Lines are cut to width and height, in characters; 0 is no bound.
func (t *top) render(v *topView, width, height int) []string {
	var lines []string
	line := func(colour, format string, args ...any) {
		lines = append(lines, t.screen.paint(colour, cut(fmt.Sprintf(format, args...), width)))
	}
	var peers []string
	for _, c := range v.Confmasters {
		switch {
		case c.Leader:
			peers = append(peers, c.Name+" leads")
		case !c.Up:
			peers = append(peers, c.Name+" DOWN")
		default:
			peers = append(peers, c.Name)
		}
	}
	state := ""
	if t.paused {
		state = "  PAUSED"
	}
	line(bold, "%s  confmasters: %s%s", v.Time[:min(19, len(v.Time))], strings.Join(peers, ", "), state)
	if v.Problem != "" {
		line(red, "%s", v.Problem)
	}
	for _, g := range v.Groups {
		line("", "")
		line(stateColour(g.State), "Group %s: %s, master %s, epoch %d, copies %d", g.Name, g.State, g.Master, g.Epoch, g.Copies)
		for _, text := range []string{g.Detail, g.Plan} {
			if text != "" {
				line(yellow, "  %s", text)
			}
		}
		rows := slices.Clone(g.Replicas)
		slices.SortStableFunc(rows, func(a, b topReplica) int {
			order := compareTop(t.order, &a, &b)
			if t.reversed {
				return -order
			}
			return order
		})
		line(bold, topForm, "NODE", "ROLE", "COMMIT", "APPLIED", "LAG", "BYTES/S", "OPS/S", "READ MS")
		for i := range rows {
			r := &rows[i]
			line(stateColour(r.Role), topForm, r.Node, r.Role, decimal(r.Commit), decimal(r.Applied), decimal(r.Lag), rounded(r.BytesRate, 0), whole(r.Ops), rounded(r.ReadMs, 2))
		}
	}
	if height == 0 {
		return lines
	}
	const foot = 2
	if len(lines) > height-foot {
		lines = append(lines[:max(0, height-foot-1)], cut(fmt.Sprintf("… %d lines more: a higher terminal shows them", len(lines)-(height-foot-1)), width))
	}
	direction := ""
	if t.reversed {
		direction = ", reversed"
	}
	return append(lines, "", cut(fmt.Sprintf("q quit  p pause  s sort (%s%s)  r reverse", t.order, direction), width))
}

// topForm is a line of the table: 79 characters with names of usual length.
const topForm = "%-8s %-8s %12s %12s %8s %10s %7s %7s"

// compareTop puts what needs attention first.
func compareTop(order string, a, b *topReplica) int {
	switch order {
	case "role":
		return cmp.Compare(a.Role, b.Role)
	case "lag":
		return cmp.Compare(b.Lag, a.Lag)
	case "bytes":
		return compareKnown(b.BytesRate, a.BytesRate)
	case "ops":
		return compareKnown(b.Ops, a.Ops)
	case "read":
		return compareKnown(b.ReadMs, a.ReadMs)
	}
	return cmp.Compare(a.Node, b.Node)
}

// compareKnown compares figures of which one that is not known is the lowest.
func compareKnown[T cmp.Ordered](a, b *T) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return -1
	case b == nil:
		return 1
	}
	return cmp.Compare(*a, *b)
}

func rounded(x *float64, digits int) string {
	if x == nil {
		return "-"
	}
	return strconv.FormatFloat(*x, 'f', digits, 64)
}

func whole(n *int64) string {
	if n == nil {
		return "-"
	}
	return strconv.FormatInt(*n, 10)
}

// cut shortens a line to width characters; 0 is no bound.
func cut(text string, width int) string {
	if width <= 0 || utf8.RuneCountInString(text) <= width {
		return strings.TrimRight(text, " ")
	}
	return string([]rune(text)[:width-1]) + "…"
}

// rawTerminal lets keys come one by one and unseen. Ctrl-C comes as a key.
func rawTerminal(in *os.File) (restore func(), err error) {
	fd := int(in.Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	raw := *before
	raw.Lflag &^= unix.ICANON | unix.ECHO | unix.ISIG
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &raw); err != nil {
		return nil, err
	}
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, before) }, nil // there is nothing else to try
}
