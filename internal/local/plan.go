package local

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"lockstep/internal/wholefile"
	"lockstep/smr"
)

const (
	planName   = "cluster.json"
	planFormat = 1

	// MaxReplicas and the distances below bound a cluster on one machine: the ports of one kind must not reach those of
	// the next.
	MaxReplicas = 9
	// MinTierMemory is the least that a KV node takes for Options.TierMemory, in bytes.
	MinTierMemory = 16 << 20

	dataPorts      = 10000 // distance of the replicators' data ports from the first KV port
	managePorts    = 11000
	confmasterPort = 12000
	adminPorts     = 13000
	sentinelPorts  = 20000
	// MaxPort is the highest first port: the ports of Sentinel lie sentinelPorts above it.
	MaxPort = 65535 - sentinelPorts - MaxReplicas
)

// Plan is what a cluster is: the content of cluster.json.
type Plan struct {
	Format      int          `json:"format"`
	Cluster     string       `json:"cluster"` // random id, in every handshake
	Group       string       `json:"group"`
	Port        int          `json:"port"` // of the first KV node
	Copies      int          `json:"copies"`
	MinCopies   int          `json:"min_copies"`
	Sync        string       `json:"sync"`
	Archive     string       `json:"archive,omitempty"`     // absolute directory, or s3://..., into which replicators archive
	TLS         bool         `json:"tls,omitempty"`         // all connections; certificates are in DIR/tls
	TierMemory  int64        `json:"tier_memory,omitempty"` // bytes of --tier-memory of the KV nodes; 0: all stays in memory
	Replicas    []Replica    `json:"replicas"`
	Confmasters []Confmaster `json:"confmasters"`
}

// Replica is one replicator and the KV node beside it.
type Replica struct {
	Node       string `json:"node"`
	KVAddr     string `json:"kv_addr"`
	DataAddr   string `json:"data_addr"`
	ManageAddr string `json:"manage_addr"`
	Joins      bool   `json:"joins,omitempty"` // it was added later, and registers itself
}

// AdminAddr is the management port of the KV node.
func (r Replica) AdminAddr() string {
	host, port, _ := net.SplitHostPort(r.KVAddr) // the plan was checked
	number, _ := strconv.Atoi(port)
	return net.JoinHostPort(host, strconv.Itoa(number+adminPorts))
}

// Confmaster is one configuration master.
type Confmaster struct {
	ID           int    `json:"id"`
	Addr         string `json:"addr"`
	SentinelAddr string `json:"sentinel_addr"`
}

// Name of the process.
func (c Confmaster) Name() string { return "c" + strconv.Itoa(c.ID) }

// Options is what a new cluster is asked to be. Zero values take what stands behind them.
type Options struct {
	Replicas    int    // 1 to MaxReplicas; 3
	Confmasters int    // 1, 3 or 5; 3
	Port        int    // of the first KV node; 6379
	Copies      int    // 1 to Replicas; more than half of Replicas
	MinCopies   int    // 1 to Copies; Copies
	Sync        string // always, interval or os; always
	TLS         bool   // all connections, with a CA that is made for the cluster
	Archive     string // absolute directory of an archive, or s3://...; none. It may be changed later
	TierMemory  int64  // bytes of memory for the process of each KV node; no bound. It may be changed later
}

// WithDefaults returns o with the zero values filled in.
func (o Options) WithDefaults() Options {
	if o.Replicas == 0 {
		o.Replicas = 3
	}
	if o.Confmasters == 0 {
		o.Confmasters = 3
	}
	if o.Port == 0 {
		o.Port = 6379
	}
	if o.Copies == 0 {
		o.Copies = o.Replicas/2 + 1
	}
	if o.MinCopies == 0 {
		o.MinCopies = o.Copies
	}
	if o.Sync == "" {
		o.Sync = smr.SyncAlways.String()
	}
	return o
}

// Check reports everything that is wrong with o, whose zero values must have been filled in.
func (o Options) Check() error {
	var problems []error
	if o.Replicas < 1 || o.Replicas > MaxReplicas {
		problems = append(problems, fmt.Errorf("%d replicas: use 1 to %d", o.Replicas, MaxReplicas))
	}
	if o.Confmasters != 1 && o.Confmasters != 3 && o.Confmasters != 5 {
		problems = append(problems, fmt.Errorf("%d configuration masters: use 1, 3 or 5", o.Confmasters))
	}
	if o.Port < 1 || o.Port > MaxPort {
		problems = append(problems, fmt.Errorf("port %d: use 1 to %d (Sentinel listens on port+%d)", o.Port, MaxPort, sentinelPorts))
	}
	if o.Copies < 1 || o.Copies > o.Replicas {
		problems = append(problems, fmt.Errorf("%d copies of %d replicas: use 1 to %d", o.Copies, o.Replicas, o.Replicas))
	}
	if o.MinCopies < 1 || o.MinCopies > o.Copies {
		problems = append(problems, fmt.Errorf("min-copies %d: use 1 to copies, which is %d", o.MinCopies, o.Copies))
	}
	if _, err := smr.ParseSyncMode(o.Sync); err != nil {
		problems = append(problems, err)
	}
	if o.TierMemory != 0 && o.TierMemory < MinTierMemory {
		problems = append(problems, fmt.Errorf("tier-memory %d: use at least %d bytes", o.TierMemory, MinTierMemory))
	}
	if o.Archive != "" && !filepath.IsAbs(o.Archive) && !strings.HasPrefix(o.Archive, "s3://") {
		problems = append(problems, fmt.Errorf("archive %q: name it from the root on", o.Archive))
	}
	return errors.Join(problems...)
}

// newPlan describes a cluster with a fresh random id.
func newPlan(o Options) Plan {
	id := make([]byte, 8)
	rand.Read(id) // never fails: it ends the process instead
	p := Plan{
		Format: planFormat, Cluster: hex.EncodeToString(id), Group: "g1", Port: o.Port,
		Copies: o.Copies, MinCopies: o.MinCopies, Sync: o.Sync, TLS: o.TLS, Archive: o.Archive, TierMemory: o.TierMemory,
	}
	for i := range o.Replicas {
		p.Replicas = append(p.Replicas, replicaOf(o.Port, i+1))
	}
	for i := range o.Confmasters {
		p.Confmasters = append(p.Confmasters, Confmaster{
			ID:           i + 1,
			Addr:         loopback(o.Port + confmasterPort + i),
			SentinelAddr: loopback(o.Port + sentinelPorts + i),
		})
	}
	return p
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// ConfmasterAddrs lists where the configuration masters answer.
func (p Plan) ConfmasterAddrs() []string {
	var addrs []string
	for _, c := range p.Confmasters {
		addrs = append(addrs, c.Addr)
	}
	return addrs
}

// find returns the replica of that name.
func (p Plan) find(node string) (Replica, bool) {
	for _, r := range p.Replicas {
		if r.Node == node {
			return r, true
		}
	}
	return Replica{}, false
}

// check reports what makes p unusable: it comes from a file that anything may have happened to.
func (p Plan) check() error {
	if p.Format > planFormat {
		return fmt.Errorf("it has format %d and this smrctl knows formats up to %d: use a newer smrctl", p.Format, planFormat)
	}
	options := Options{Replicas: len(p.Replicas), Confmasters: len(p.Confmasters), Port: p.Port, Copies: p.Copies, MinCopies: p.MinCopies, Sync: p.Sync, Archive: p.Archive, TierMemory: p.TierMemory}
	if err := options.Check(); err != nil {
		return err
	}
	if p.Format != planFormat || p.Cluster == "" || p.Group == "" {
		return errors.New("format, cluster or group is missing")
	}
	want := newPlan(options)
	for i, r := range p.Replicas {
		number, err := replicaNumber(r.Node)
		if err != nil {
			return err
		}
		would := replicaOf(p.Port, number)
		if would.Joins = r.Joins; r != would {
			return fmt.Errorf("replica %s is %+v and would be %+v", r.Node, r, would)
		}
		if i > 0 && p.Replicas[i-1].Node >= r.Node {
			return fmt.Errorf("replica %s stands behind %s", r.Node, p.Replicas[i-1].Node)
		}
	}
	for i, c := range p.Confmasters {
		if c != want.Confmasters[i] {
			return fmt.Errorf("configuration master %d is %+v and would be %+v", i+1, c, want.Confmasters[i])
		}
	}
	return nil
}

// ErrNoCluster: the directory holds no cluster.
var ErrNoCluster = errors.New("no cluster here")

// maxPlan bounds cluster.json, in bytes.
const maxPlan = 1 << 20

// loadPlan reads cluster.json of dir.
func loadPlan(dir string) (Plan, error) {
	path := filepath.Join(dir, planName)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Plan{}, fmt.Errorf("%s: %w: start one with `smrctl up --dir %s`, or name one elsewhere with --confmaster HOST:PORT,…", path, ErrNoCluster, dir)
	}
	if err != nil {
		return Plan{}, fmt.Errorf("read cluster description: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxPlan {
		return Plan{}, fmt.Errorf("%s is not a cluster description (%v, %d bytes): choose another directory with --dir", path, info.Mode(), info.Size())
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return Plan{}, fmt.Errorf("read cluster description: %w", err)
	}
	var p Plan
	if err := json.Unmarshal(content, &p); err != nil {
		return Plan{}, damagedPlan(path, err)
	}
	if err := p.check(); err != nil {
		return Plan{}, damagedPlan(path, err)
	}
	return p, nil
}

func damagedPlan(path string, err error) error {
	return fmt.Errorf("%s cannot be used: %w\n  put a good copy back, or move the directory away to begin a new cluster", path, err)
}

// savePlan writes cluster.json so that a crash leaves the old one, the new one or none.
func savePlan(dir string, p Plan) error {
	content, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return fmt.Errorf("encode cluster description: %w", err)
	}
	return wholefile.Write(filepath.Join(dir, planName), append(content, '\n'))
}
