package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"time"
)

// manager is the service manager that started this process, spoken to in the way of systemd: datagrams to the socket
// that NOTIFY_SOCKET names. Without one all methods do nothing. (The two variables are the manager's protocol, not
// settings of ours.)
type manager struct {
	logger *slog.Logger
	period time.Duration // within which the manager wants a sign of life, 0 if it does not

	mu   sync.Mutex
	conn net.Conn // nil: there is no manager
}

func openManager(logger *slog.Logger) *manager {
	m := &manager{logger: logger}
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return m
	}
	conn, err := net.Dial("unixgram", path) // "@name" is an abstract socket
	if err != nil {
		logger.Warn("service manager", "error", fmt.Sprintf("NOTIFY_SOCKET: %v", err))
		return m
	}
	m.conn = conn
	m.period = watchdogPeriod(os.Getenv("WATCHDOG_USEC"), os.Getenv("WATCHDOG_PID"), os.Getpid())
	return m
}

// watchdogPeriod reads what the manager asks for; 0 if it asks for nothing, or another process.
func watchdogPeriod(micros, forPid string, pid int) time.Duration {
	if forPid != "" && forPid != strconv.Itoa(pid) {
		return 0
	}
	n, err := strconv.ParseInt(micros, 10, 64)
	if err != nil || n <= 0 || n > int64(24*time.Hour/time.Microsecond) {
		return 0
	}
	return time.Duration(n) * time.Microsecond
}

func (m *manager) tell(state string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn == nil {
		return
	}
	m.conn.SetWriteDeadline(time.Now().Add(time.Second)) // a manager that does not read must not hold us up
	if _, err := m.conn.Write([]byte(state)); err != nil {
		m.logger.Warn("service manager", "error", err.Error())
	}
}

func (m *manager) ready()    { m.tell("READY=1\nSTATUS=serving") }
func (m *manager) stopping() { m.tell("STOPPING=1\nSTATUS=stopping") }

// watchdog gives signs of life, twice a period, until ctx ends and for as long as the process lives.
func (m *manager) watchdog(ctx context.Context, live func() error) {
	if m.period == 0 {
		return
	}
	ticker := time.NewTicker(m.period / 2)
	defer ticker.Stop()
	for {
		if err := live(); err != nil {
			m.logger.Error("no sign of life for the service manager", "error", err.Error())
		} else {
			m.tell("WATCHDOG=1")
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (m *manager) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil {
		m.conn.Close() // nothing more is to be said
		m.conn = nil
	}
}
