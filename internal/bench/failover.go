package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"lockstep/internal/local"
	"lockstep/internal/pause"
)

// DrillConfig of a series of fail-overs.
type DrillConfig struct {
	Dir      string // for the data; removed afterwards
	Binaries string
	Kills    int
	Pause    time.Duration // between the return of a killed node and the next kill
	What     string        // which process of the master: replicator, kvnode or both
	Progress func(line string)
}

// DrillReport is the outcome of a series of fail-overs.
type DrillReport struct {
	Machine string  `json:"machine"`
	What    string  `json:"what"`
	Kills   []Kill  `json:"kills"`
	P50ms   float64 `json:"p50_ms"`
	MaxMs   float64 `json:"max_ms"`
	Errors  int     `json:"errors"` // replies to writes on surviving nodes that were errors; must be 0
}

// Kill is one fail-over.
type Kill struct {
	Killed string  `json:"killed"`
	On     string  `json:"on"` // node that acknowledged first
	Ms     float64 `json:"ms"` // from the kill until the first acknowledged write on a node that survived
	Error  string  `json:"error,omitempty"`
}

// RunDrill kills the master again and again, each time measuring how long it takes until a write that was sent after the kill
// is acknowledged on another node, and starts the killed node again.
func RunDrill(ctx context.Context, c DrillConfig) (report DrillReport, err error) {
	e := &Env{Binaries: c.Binaries, Rounds: 1, Time: time.Second, Kills: c.Kills, Progress: c.Progress}
	if err := e.Open(c.Dir); err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	r, err := e.System(ctx, LockstepAlways)
	if err != nil {
		return report, err
	}
	return e.kill(ctx, r.Cluster, c)
}

// kill is the drill in a cluster that runs.
func (e *Env) kill(ctx context.Context, cluster *local.Cluster, c DrillConfig) (report DrillReport, err error) {
	report = DrillReport{Machine: machine(), What: c.What, Kills: []Kill{}}
	for i := range c.Kills {
		if i > 0 && !pause.For(ctx, c.Pause) {
			return report, ctx.Err()
		}
		kill, err := drill(ctx, cluster, c)
		if err != nil {
			return report, fmt.Errorf("kill %d: %w", i+1, err)
		}
		if kill.Error != "" {
			report.Errors++
		}
		report.Kills = append(report.Kills, kill)
		c.Progress(fmt.Sprintf("kill %d of %d: %s of %s, write acknowledged on %s after %.0f ms %s", i+1, c.Kills, c.What, kill.Killed, kill.On, kill.Ms, kill.Error))
	}
	var all []float64
	for _, kill := range report.Kills {
		all = append(all, kill.Ms)
	}
	report.P50ms, report.MaxMs = median(all), slices.Max(all)
	return report, nil
}

// drillTimeout bounds one fail-over and the return of the killed node.
const drillTimeout = time.Minute

// drill kills the master once and leaves the group whole again.
func drill(ctx context.Context, cluster *local.Cluster, c DrillConfig) (Kill, error) {
	ctx, cancel := context.WithTimeout(ctx, drillTimeout)
	defer cancel()
	master, err := masterOf(ctx, cluster)
	if err != nil {
		return Kill{}, err
	}
	conns, err := connectSurvivors(ctx, cluster, master)
	defer closeAll(conns)
	if err != nil {
		return Kill{}, err
	}
	node := cluster.Plan.Replicas[master].Node
	var killed []string
	for _, p := range cluster.Processes() {
		if p.Node != node || c.What != "both" && c.What != string(p.Kind) {
			continue
		}
		if err := cluster.Signal(p.Name, syscall.SIGKILL); err != nil {
			return Kill{}, err
		}
		killed = append(killed, p.Name)
	}
	kill := firstWrite(conns, time.Now())
	kill.Killed = node
	for _, name := range killed {
		<-cluster.Ended(name)
		if _, err := cluster.StartProcess(name, c.Binaries); err != nil {
			return kill, err
		}
	}
	client, err := cluster.Admin()
	if err != nil {
		return kill, err
	}
	defer client.Close()
	return kill, cluster.AwaitHealthy(ctx, client)
}

// survivor is a client of a node that is not killed.
type survivor struct {
	node   string
	conn   net.Conn
	reader *bufio.Reader
	count  int
}

func connectSurvivor(ctx context.Context, r local.Replica) (*survivor, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", r.KVAddr)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	s := &survivor{node: r.Node, conn: conn, reader: bufio.NewReader(conn)}
	return s, s.write() // so that everything on the way has been used before
}

// write sets a key and waits for the answer.
func (s *survivor) write() error {
	s.count++
	_, err := s.conn.Write(appendCommand(nil, "SET", []byte("drill:"+s.node), strconv.AppendInt(nil, int64(s.count), 10)))
	if err != nil {
		return err
	}
	return s.reply()
}

// reply reads one reply and returns an error reply as an error.
func (s *survivor) reply() error {
	var answer replies
	for {
		piece, err := s.reader.ReadSlice('\n')
		if err != nil {
			return err
		}
		_, done, err := answer.next(piece)
		switch {
		case err != nil:
			return err
		case done && answer.kind == '-':
			return fmt.Errorf("the server answers %s", answer.text)
		case done:
			return nil
		}
	}
}

// firstWrite sends a write to every survivor and returns who was answered first, and how long after begun. All answers are
// awaited: an error reply on any of them is reported.
func firstWrite(conns []*survivor, begun time.Time) Kill {
	var mu sync.Mutex
	var kill Kill
	var wait sync.WaitGroup
	for _, s := range conns {
		wait.Go(func() {
			err := s.write()
			taken := time.Since(begun)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				kill.Error = fmt.Sprintf("%s: %v", s.node, err)
			case kill.On == "":
				kill.On, kill.Ms = s.node, float64(taken)/float64(time.Millisecond)
			}
		})
	}
	wait.Wait()
	return kill
}
