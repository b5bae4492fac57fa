package floor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"

	"lockstep/internal/slack"
)

// Sync modes.
const (
	SyncAlways = "always" // a SET is answered when two files have it durably
	SyncOS     = "os"     // when two files have it: nothing is synced
)

// Kinds of processes.
const (
	KindFront  = "front"
	KindLogger = "logger"
)

// Config is what one process is to do. Its files and sockets are in the working directory.
type Config struct {
	Kind    string `json:"kind"`
	Node    string `json:"node"` // n1 is the master
	Sync    string `json:"sync"`
	Full    bool   `json:"full"`
	Follows bool   `json:"follows"`         // a front that takes no clients and executes what is committed
	Flights int    `json:"flights"`         // frames that may be on their way at once: 1 to 16
	Peers   []int  `json:"peers,omitempty"` // ports of the other loggers, for that of n1
}

// MaxFlights bounds Flights: each has a buffer of maxFrame.
const MaxFlights = 16

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	var problems []error
	unless := func(right bool, format string, values ...any) {
		if !right {
			problems = append(problems, fmt.Errorf(format, values...))
		}
	}
	unless(c.Kind == KindFront || c.Kind == KindLogger, "kind %q: use %s or %s", c.Kind, KindFront, KindLogger)
	unless(c.Sync == SyncAlways || c.Sync == SyncOS, "sync %q: use %s or %s", c.Sync, SyncAlways, SyncOS)
	unless(c.Flights >= 1 && c.Flights <= MaxFlights, "%d flights: use 1 to %d", c.Flights, MaxFlights)
	unless(c.Node != "", "a node must have a name")
	unless(len(c.Peers) == 0 || len(c.Peers) == 2, "%d peers: use none or two", len(c.Peers))
	unless(c.Full || !c.Follows, "a front that follows needs a full skeleton")
	return errors.Join(problems...)
}

// RunPart is the whole life of a process of the skeleton: text is a Config in JSON. When it is ready it writes the port on which it listens, or 0, to
// standard output. It ends when a process that it needs has ended, with an error, and is else to be killed.
func RunPart(text string) error {
	var c Config
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return fmt.Errorf("read the part %q: %w", text, err)
	}
	if err := c.Validate(); err != nil {
		return err
	}
	slack.Take()
	debug.SetGCPercent(-1)
	if c.Kind == KindFront {
		return runFront(c)
	}
	return runLogger(c)
}

// ready tells whoever began the process.
func (c Config) ready(port int) {
	_, _ = os.Stdout.WriteString(strconv.Itoa(port) + "\n") // nobody listens: nobody needs to know
}
