package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"lockstep/internal/local"
)

// settings returns a sample with values filled in, as an operator does. A setting that the sample does not name is an error.
func settings(t *testing.T, sample string, values map[string]string) string {
	t.Helper()
	text := readFile(t, "deploy/config/"+sample)
	for name, value := range values {
		line := regexp.MustCompile(`(?m)^#?` + name + ` = .*$`)
		if !line.MatchString(text) {
			t.Errorf("%s says nothing of %s", sample, name)
		}
		text = line.ReplaceAllLiteralString(text, name+" = "+value)
	}
	return text
}

// service is a process started as systemd would.
type service struct {
	name string
	cmd  *exec.Cmd
	out  *bytes.Buffer
	tell *net.UnixConn

	mu   sync.Mutex
	said string // what it told the service manager
	done chan struct{}
	err  error // of the process, once done is closed
}

// begin starts a command line with a service manager that listens.
func begin(t *testing.T, dir, name string, words []string) *service {
	t.Helper()
	path := filepath.Join(dir, name+".notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	s := &service{name: name, cmd: exec.Command(words[0], words[1:]...), out: &bytes.Buffer{}, tell: conn, done: make(chan struct{})}
	s.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+path)
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		s.err = s.cmd.Wait()
		close(s.done)
	}()
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := conn.Read(buffer)
			if err != nil {
				return
			}
			s.mu.Lock()
			s.said += string(buffer[:n]) + "\n"
			s.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		s.cmd.Process.Kill()
		<-s.done
		conn.Close()
		os.Remove(path)
		if t.Failed() {
			t.Logf("%s said:\n%s", name, s.out)
		}
	})
	return s
}

// awaitReady waits until the service manager would count it as started.
func (s *service) awaitReady(t *testing.T) {
	t.Helper()
	eventually(t, s.name+" is ready", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		select {
		case <-s.done:
			return fmt.Errorf("it ended: %v", s.err)
		default:
		}
		if !strings.Contains(s.said, "READY=1") {
			return fmt.Errorf("it told the service manager %q", s.said)
		}
		return nil
	})
}

// stop ends it as systemd does; it must end in good order.
func (s *service) stop(t *testing.T) {
	t.Helper()
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
		if s.err != nil {
			t.Errorf("%s: %v", s.name, s.err)
		}
	case <-time.After(patience):
		t.Fatalf("%s does not stop", s.name)
	}
}

// What could go wrong: the way of docs/install.md does not lead to a cluster: a setting of a sample does not exist, a command line of a
// unit is wrong, a unit of Type=notify never becomes ready, the founding cannot be ended. The units' command lines run with the samples
// filled in, a group is founded with smrctl, and a client writes.
func TestUnitsAndSamplesFoundACluster(t *testing.T) {
	t.Parallel()
	port, release, err := local.ReservePorts(local.Options{Replicas: 1, Confmasters: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	dir, err := os.MkdirTemp("", "ls-") // short: sockets lie in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	at := func(distance int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port+distance)) }
	redisAddr, data, manage, grpc, sentinel := at(0), at(10000), at(11000), at(12000), at(20000)
	for name, text := range map[string]string{
		"confmaster-1.conf":  settings(t, "confmaster.conf", map[string]string{"cluster": "try", "peers": "1=" + grpc, "sentinel": sentinel, "http": "127.0.0.1:0"}),
		"replicator-n1.conf": settings(t, "replicator.conf", map[string]string{"cluster": "try", "data": data, "manage": manage, "http": "127.0.0.1:0"}),
		"kvnode-n1.conf": settings(t, "kvnode.conf", map[string]string{"cluster": "try", "listen": redisAddr, "announce": redisAddr, "requirepass": `"a # secret"`,
			"peers": "n1=" + redisAddr, "masters": grpc, "admin": at(13000), "http": at(1)}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	start := func(kind, instance, found string) *service {
		var words []string
		for _, word := range unitCommand(t, "lockstep-"+kind+"@.service", instance, dir, dir) {
			if word == "$FOUND" {
				word = found
			}
			if word != "" {
				words = append(words, word)
			}
		}
		return begin(t, dir, kind, words)
	}

	refused := start("confmaster", "1", "")
	<-refused.done
	if refused.err == nil || !strings.Contains(refused.out.String(), "add --new") {
		t.Fatalf("a configuration master without a directory starts without being founded: %v\n%s", refused.err, refused.out)
	}
	os.Remove(filepath.Join(dir, "confmaster.notify"))
	founded := start("confmaster", "1", "--new")
	founded.awaitReady(t)
	founded.stop(t)
	os.Remove(filepath.Join(dir, "confmaster.notify"))
	confmaster := start("confmaster", "1", "")
	kvnode := start("kvnode", "n1", "") // the order does not matter
	replicator := start("replicator", "n1", "")
	confmaster.awaitReady(t)
	replicator.awaitReady(t)
	out, err := command(nil, dir, filepath.Join(programs, "smrctl"), "group", "create", "g1", "--confmaster", grpc, "--replica", "n1="+redisAddr+","+data+","+manage)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(strings.TrimSpace(out))
	kvnode.awaitReady(t)

	ctx := context.Background()
	stranger := redis.NewClient(&redis.Options{Addr: redisAddr, MaxRetries: -1})
	defer stranger.Close()
	eventually(t, "a client without the password is refused", func() error {
		if err := stranger.Get(ctx, "k").Err(); err == nil || !strings.Contains(err.Error(), "NOAUTH") {
			return fmt.Errorf("it is answered %v", err)
		}
		return nil
	})
	client := redis.NewClient(&redis.Options{Addr: redisAddr, Password: "a # secret", MaxRetries: -1})
	defer client.Close()
	eventually(t, "a write", func() error { return client.Set(ctx, "k", "v", 0).Err() })
	if got, err := client.Get(ctx, "k").Result(); err != nil || got != "v" {
		t.Errorf("read %q, %v", got, err)
	}
	eventually(t, "the health check of the KV node", func() error {
		_, err := command(nil, dir, filepath.Join(programs, "probe"), "http://"+at(1)+"/readyz")
		return err
	})
	master := redis.NewSentinelClient(&redis.Options{Addr: sentinel})
	defer master.Close()
	eventually(t, "Sentinel names the master", func() error {
		address, err := master.GetMasterAddrByName(ctx, "g1").Result()
		if err == nil && strings.Join(address, ":") != redisAddr {
			err = errors.New("it names " + strings.Join(address, ":"))
		}
		return err
	})
	kvnode.stop(t)
	replicator.stop(t)
	confmaster.stop(t)
}
