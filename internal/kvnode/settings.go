package kvnode

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/internal/acl"
	"lockstep/internal/kv"
	"lockstep/internal/resp"
	"lockstep/smr"
)

// setting is one parameter of CONFIG.
type setting struct {
	name string
	get  func() string
	// check returns the change that a value stands for, or why it cannot be set. nil: the parameter cannot be changed.
	check func(value string) (apply func(), err error)
	// replicated: it is part of the state and changed by a record.
	replicated bool
	// hidden: its value is a secret. It is changed by a record about the default user.
	hidden bool
	// fixed: Redis lets it be changed at run time, here it follows from how Lockstep works.
	fixed bool
	// noted: nothing depends on it.
	noted bool
}

// settings is what CONFIG GET shows and CONFIG SET changes, in three kinds: those of this node, which take effect here and
// last as long as the process; the replicated ones, which are part of the state (kv.ReplicatedSettings); and those that
// only describe Lockstep to clients and exporters. Of the last, some follow from how Lockstep works and can be "set" to
// that value only; others are noted: any valid value is taken and shown again, and nothing depends on it.
type settings struct {
	all []setting // sorted by name

	slowerThan     atomic.Int64 // microseconds, -1: never
	maxClients     atomic.Int64
	maxQuery       atomic.Int64 // bytes
	timeout        atomic.Int64 // nanoseconds of silence until a client is closed, 0: never
	timeoutUsed    atomic.Bool  // timeout was not 0 at some time: deadlines have to be looked after
	keepAlive      atomic.Int64 // nanoseconds
	protected      atomic.Bool  // protected-mode
	trackedKeys    atomic.Int64 // tracking-table-max-keys
	deniedKept     atomic.Int64 // acllog-max-len
	latencyFrom    atomic.Int64 // milliseconds, 0: the latency monitor is off
	untimed        atomic.Bool  // latency-tracking no: histograms of commands stand still
	percentiles    atomic.Pointer[[]float64]
	clientLimit    atomic.Pointer[clientLimit]
	outputLimits   atomic.Pointer[outputLimits]
	outputSettings atomic.Pointer[outputLimits] // as they were given

	// atStart are the values of the settings of this node when it was made. It does not change.
	atStart map[string]string

	mu    sync.Mutex
	noted map[string]string
}

// originClient begins the origin of a setting that a client has changed.
const originClient = "CONFIG SET by "

// clientClass is a class of client-output-buffer-limit.
type clientClass int

const (
	normalClient clientClass = iota
	replicaClient
	pubsubClient
	clientClasses
)

type outputLimits [clientClasses]bufferLimit

// enforced returns the limits as they are kept to: 0 means as much as the process allows one connection.
func (l outputLimits) enforced(most int) *outputLimits {
	for i := range l {
		if l[i].hard == 0 || l[i].hard > most {
			l[i].hard = most
		}
	}
	return &l
}

func (l *outputLimits) String() string {
	text := ""
	for i, name := range []string{"normal", "slave", "pubsub"} {
		text += fmt.Sprintf("%s %d %d %d ", name, l[i].hard, l[i].soft, int64(l[i].softTime/time.Second))
	}
	return strings.TrimSuffix(text, " ")
}

// standardOutputLimits are the defaults of client-output-buffer-limit, as redis-server has them.
var standardOutputLimits = outputLimits{{}, {256 << 20, 64 << 20, time.Minute}, {32 << 20, 8 << 20, time.Minute}}

func newSettings(n *Node) *settings {
	s := &settings{noted: make(map[string]string)}
	s.slowerThan.Store(n.config.SlowerThan.Microseconds())
	s.maxClients.Store(int64(n.config.MaxClients))
	s.maxQuery.Store(int64(n.config.MaxQuery))
	s.timeout.Store(int64(n.config.IdleTimeout))
	s.timeoutUsed.Store(n.config.IdleTimeout > 0)
	s.keepAlive.Store(int64(n.config.KeepAlive))
	s.protected.Store(!n.config.AllowRemote)
	s.trackedKeys.Store(1000000)
	s.deniedKept.Store(128)
	s.percentiles.Store(&[]float64{50, 99, 99.9})
	s.setOutputLimits(n, standardOutputLimits)
	s.clientLimit.Store(&clientLimit{})
	s.all = slices.Concat(s.ofNode(n), []setting{s.clientLimitSetting(n)}, s.replicated(n), fixedSettings(n))
	known := make(map[string]bool)
	for _, entry := range s.all {
		known[entry.name] = true
	}
	for _, entry := range notedSettings {
		if !known[entry.name] {
			s.all = append(s.all, s.note(entry))
		}
	}
	slices.SortFunc(s.all, func(a, b setting) int { return strings.Compare(a.name, b.name) })
	s.atStart = make(map[string]string)
	for i := range s.all {
		if entry := &s.all[i]; entry.scope() == "node" {
			s.atStart[entry.name] = entry.get()
		}
	}
	return s
}

func (s *settings) setOutputLimits(n *Node, limits outputLimits) {
	s.outputSettings.Store(&limits)
	s.outputLimits.Store(limits.enforced(n.config.MaxOutput))
}

// ofNode returns the settings that take effect on this node.
func (s *settings) ofNode(n *Node) []setting {
	number := func(v *atomic.Int64) func() string { return func() string { return strconv.FormatInt(v.Load(), 10) } }
	seconds := func(v *atomic.Int64) func() string {
		return func() string { return strconv.FormatInt(v.Load()/int64(time.Second), 10) }
	}
	return []setting{
		{name: "acllog-max-len", get: number(&s.deniedKept), check: integerCheck(0, math.MaxInt64, s.deniedKept.Store)},
		{name: "client-output-buffer-limit", get: func() string { return s.outputSettings.Load().String() },
			check: func(value string) (func(), error) {
				limits, err := parseOutputLimits(*s.outputSettings.Load(), value)
				return func() { s.setOutputLimits(n, limits) }, err
			}},
		{name: "client-query-buffer-limit", get: number(&s.maxQuery), check: func(value string) (func(), error) {
			size, err := parseMemory(value)
			if errors.Is(err, errMemoryRange) || err == nil && size < 1<<20 {
				err = fmt.Errorf("argument must be between %d and %d inclusive", 1<<20, math.MaxInt64)
			}
			return func() { s.maxQuery.Store(min(size, int64(n.config.MaxQuery))) }, err
		}},
		{name: "latency-monitor-threshold", get: number(&s.latencyFrom), check: integerCheck(0, math.MaxInt64, s.latencyFrom.Store)},
		{name: "latency-tracking", get: func() string { return yesNo(!s.untimed.Load()) }, check: boolCheck(func(on bool) { s.untimed.Store(!on) })},
		{name: "latency-tracking-info-percentiles", get: func() string { return percentilesText(*s.percentiles.Load()) }, check: func(value string) (func(), error) {
			list, err := parsePercentiles(value)
			return func() { s.percentiles.Store(&list) }, err
		}},
		{name: "maxclients", get: number(&s.maxClients), check: integerCheck(1, 1<<32-1, s.maxClients.Store)},
		{name: "protected-mode", get: func() string { return yesNo(s.protected.Load()) }, check: boolCheck(s.protected.Store)},
		{name: "requirepass", get: func() string { return "" }, hidden: true},
		{name: "slowlog-log-slower-than", get: number(&s.slowerThan), check: integerCheck(-1, math.MaxInt64, s.slowerThan.Store)},
		{name: "slowlog-max-len", get: func() string { return strconv.Itoa(n.slow.getLimit()) },
			check: integerCheck(0, math.MaxInt64, func(v int64) { n.slow.setLimit(int(v)) })},
		{name: "tcp-keepalive", get: seconds(&s.keepAlive), check: integerCheck(0, 1<<31-1, func(v int64) { s.keepAlive.Store(v * int64(time.Second)) })},
		{name: "timeout", get: seconds(&s.timeout), check: integerCheck(0, 1<<31-1, func(v int64) {
			s.timeout.Store(v * int64(time.Second))
			s.timeoutUsed.Store(true)
		})},
		{name: "tracking-table-max-keys", get: number(&s.trackedKeys), check: integerCheck(0, math.MaxInt64, s.trackedKeys.Store)},
	}
}

// replicated returns the settings that are part of the state.
func (s *settings) replicated(n *Node) []setting {
	var list []setting
	for _, name := range kv.ReplicatedSettings() {
		list = append(list, setting{name: name, replicated: true, get: func() string {
			n.lock.RLock()
			defer n.lock.RUnlock()
			value, _ := n.machine.Setting(name)
			return value
		}})
	}
	return list
}

// fixedSettings follow from how Lockstep works or from how the process was started.
func fixedSettings(n *Node) []setting {
	text := func(t string) func() string { return func() string { return t } }
	hostName, port, _ := splitHostPort(n.config.Listen)
	return []setting{
		{name: "acl-pubsub-default", get: text("resetchannels"), fixed: true},
		{name: "appendfsync", get: text("always"), fixed: true},
		{name: "bind", get: text(hostName)},
		{name: "cluster-enabled", get: text("no")},
		{name: "daemonize", get: text("no")},
		{name: "databases", get: text(strconv.Itoa(kv.Databases))},
		{name: "dir", get: text(n.config.ReplicatorDir), fixed: true},
		{name: "enable-debug-command", get: text("local")},
		{name: "enable-module-command", get: text("no")},
		{name: "enable-protected-configs", get: text("no")},
		{name: "aclfile", get: text("")},
		{name: "io-threads", get: text("1")},
		{name: "logfile", get: text("")},
		{name: "pidfile", get: text("")},
		{name: "port", get: func() string {
			if address := n.address.Load(); address != nil {
				return strconv.Itoa(address.Port)
			}
			return strconv.Itoa(port)
		}},
		{name: "proto-max-bulk-len", get: text(strconv.Itoa(smr.MaxPayload)), fixed: true},
		{name: "replica-read-only", get: text("no"), fixed: true},
		{name: "replica-serve-stale-data", get: text("no"), fixed: true},
		{name: "slave-read-only", get: text("no"), fixed: true},
		{name: "slave-serve-stale-data", get: text("no"), fixed: true},
		{name: "supervised", get: text("no")},
		{name: "tls-port", get: text("0"), fixed: true},
		{name: "unixsocket", get: text("")},
	}
}

// parsePercentiles reads numbers from 0 to 100.
func parsePercentiles(value string) (list []float64, err error) {
	for _, word := range strings.Fields(value) {
		percentile, err := strconv.ParseFloat(word, 64)
		if err != nil {
			return nil, errors.New("Invalid latency-tracking-info-percentiles parameters")
		}
		if !(percentile >= 0 && percentile <= 100) {
			return nil, errors.New("latency-tracking-info-percentiles should be between 0.0 and 100.0")
		}
		list = append(list, percentile)
	}
	return list, nil
}

func percentilesText(list []float64) string {
	words := make([]string, len(list))
	for i, percentile := range list {
		words[i] = strconv.FormatFloat(percentile, 'g', -1, 64)
	}
	return strings.Join(words, " ")
}

// errMemoryRange: a number of bytes that no 63 bits hold.
var errMemoryRange = fmt.Errorf("argument must be between 0 and %d inclusive", math.MaxInt64)

// parseMemory reads a number of bytes with a unit, as redis.conf has them.
func parseMemory(value string) (int64, error) {
	lower := strings.ToLower(value)
	digits := strings.TrimRight(lower, "bkmg")
	unit, known := map[string]int64{"": 1, "b": 1, "k": 1000, "kb": 1 << 10, "m": 1000 * 1000, "mb": 1 << 20, "g": 1000 * 1000 * 1000, "gb": 1 << 30}[lower[len(digits):]]
	if digits == "" && lower == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange), err == nil && known && n > math.MaxInt64/uint64(unit):
		return 0, errMemoryRange
	case !known || err != nil:
		return 0, errors.New("argument must be a memory value")
	}
	return int64(n) * unit, nil
}

// parseOutputLimits changes limits as a value of client-output-buffer-limit says.
func parseOutputLimits(limits outputLimits, value string) (outputLimits, error) {
	words := strings.Fields(value)
	if len(words)%4 != 0 {
		return limits, errors.New("Wrong number of arguments in buffer limit configuration.")
	}
	for ; len(words) > 0; words = words[4:] {
		class, known := map[string]clientClass{"normal": normalClient, "slave": replicaClient, "replica": replicaClient, "pubsub": pubsubClient}[strings.ToLower(words[0])]
		if !known {
			return limits, errors.New("Invalid client class specified in buffer limit configuration.")
		}
		hard, err1 := parseMemory(words[1])
		soft, err2 := parseMemory(words[2])
		seconds, ok := resp.ParseInt([]byte(words[3]))
		if err1 != nil || err2 != nil || !ok || seconds < 0 || seconds > 1<<31 {
			return limits, errors.New("Error in hard, soft or soft_seconds setting in buffer limit configuration.")
		}
		limits[class] = bufferLimit{hard: int(hard), soft: int(soft), softTime: time.Duration(seconds) * time.Second}
	}
	return limits, nil
}

func yesNo(truth bool) string {
	if truth {
		return "yes"
	}
	return "no"
}

func boolCheck(set func(bool)) func(string) (func(), error) {
	return func(value string) (func(), error) {
		word, err := boolean(value)
		return func() { set(word == "yes") }, err
	}
}

// integerCheck accepts integers within limits.
func integerCheck(low, high int64, set func(int64)) func(string) (func(), error) {
	return func(value string) (func(), error) {
		v, ok := resp.ParseInt([]byte(value))
		if !ok {
			return nil, fmt.Errorf("argument couldn't be parsed into an integer")
		}
		if v < low || v > high {
			return nil, fmt.Errorf("argument must be between %d and %d inclusive", low, high)
		}
		return func() { set(v) }, nil
	}
}

func (s *settings) find(name string) *setting {
	for i := range s.all {
		if s.all[i].name == name {
			return &s.all[i]
		}
	}
	return nil
}

// configGet is CONFIG GET pattern ...: a map of the parameters that match, each once.
func configGet(c *conn, args [][]byte) {
	type match struct {
		name string // as it was asked for, unless by a pattern
		get  func() string
	}
	var chosen []match
	replicated := false
	for _, s := range c.node.settings.all {
		for _, arg := range args[2:] {
			pattern := strings.ToLower(string(arg))
			if !kv.Glob(pattern, s.name) {
				continue
			}
			if pattern == s.name {
				s.name = string(arg)
			}
			chosen = append(chosen, match{s.name, s.get})
			replicated = replicated || s.replicated
			break
		}
	}
	if replicated && !c.readable() { // what any node has acknowledged is seen on every node
		return
	}
	c.reply.Map(len(chosen))
	for _, s := range chosen {
		c.reply.BulkString(s.name)
		c.reply.BulkString(s.get())
	}
}

// configSet is CONFIG SET name value ...: all of them or none.
func configSet(c *conn, args [][]byte) {
	pairs := args[2:]
	if len(pairs)%2 != 0 {
		c.reply.Error(errSyntax)
		return
	}
	var changes []func()
	var record, password []string
	seen := make(map[string]bool)
	for i := 0; i < len(pairs); i += 2 {
		name, value := strings.ToLower(string(pairs[i])), string(pairs[i+1])
		s := c.node.settings.find(name)
		if s == nil {
			c.reply.Error("ERR Unknown option or number of arguments for CONFIG SET - '" + string(pairs[i]) + "'")
			return
		}
		change, problem := s.change(value)
		if seen[name] {
			problem = "duplicate parameter"
		}
		seen[name] = true
		if problem != "" {
			c.reply.Error("ERR CONFIG SET failed (possibly related to argument '" + string(pairs[i]) + "') - " + problem)
			return
		}
		switch {
		case s.replicated:
			record = append(record, name, value)
		case s.hidden && value == "":
			password = []string{"nopass"}
		case s.hidden:
			password = []string{"resetpass", ">" + value}
		default:
			changes = append(changes, change)
		}
	}
	var records [][][]byte
	if len(record) > 0 {
		records = append(records, kv.SettingRecord(record...))
	}
	if password != nil {
		records = append(records, kv.UserRecord(acl.Default, password))
	}
	for _, args := range records {
		mark, errors := len(c.reply.Buf), c.reply.Errors
		if c.executeRecord(args); c.dead || c.reply.Errors > errors {
			return
		}
		c.reply.Buf = c.reply.Buf[:mark]
	}
	for _, change := range changes {
		change()
	}
	for i := 0; i < len(pairs); i += 2 {
		c.node.authority.noteOrigin(strings.ToLower(string(pairs[i])), originClient+c.standing.user.Name()+" from "+c.net.RemoteAddr().String())
	}
	c.reply.OK()
}

// change returns what has to be done to give the setting a value, or why it cannot be done.
func (s *setting) change(value string) (apply func(), problem string) {
	switch {
	case s.replicated:
		_, problem := kv.CheckSetting(s.name, value)
		return nil, problem
	case s.hidden:
		return nil, ""
	case s.check != nil:
		apply, err := s.check(value)
		if err != nil {
			return nil, err.Error()
		}
		return apply, ""
	case !s.fixed:
		return nil, "can't set immutable config"
	case value == s.get():
		return func() {}, ""
	}
	return nil, fmt.Sprintf("Lockstep has the value '%s' only; it is set when the process starts, or follows from the replicated log", s.get())
}

func configResetStat(c *conn, _ [][]byte) {
	c.node.stats.reset()
	c.node.lock.RLock()
	c.node.stats.expiredBefore.Store(c.node.machine.Stats().Expired)
	c.node.lock.RUnlock()
	for _, command := range c.node.commands.all {
		command.stats.reset()
	}
	c.reply.OK()
}

// configRewrite is CONFIG REWRITE. What the group shares is durable as soon as CONFIG SET has answered, and what the configuration masters have
// on record comes back by itself: then there is nothing left to write. A setting of this node that a client gave a value which a
// restart would forget is named instead.
func configRewrite(c *conn, _ [][]byte) {
	var lost []string
	for i := range c.node.settings.all {
		s := &c.node.settings.all[i]
		_, origin := c.node.authority.look(s.name)
		if strings.HasPrefix(origin, originClient) && s.scope() == "node" && s.get() != c.node.authority.restored(s.name, c.node.settings.atStart[s.name]) {
			lost = append(lost, s.name)
		}
	}
	if len(lost) == 0 {
		c.reply.OK()
		return
	}
	c.reply.Error("ERR Rewriting config file: there is none, and a restart of this node would forget what CONFIG SET gave it: " + strings.Join(lost, ", ") +
		". Have the configuration masters keep it with `smrctl config set`, for all nodes of the group, or put it into the file of settings of this node")
}
