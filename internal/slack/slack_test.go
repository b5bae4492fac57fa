package slack

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// The test's own program stands for a server: it says its process id before and after.
func TestMain(m *testing.M) {
	if os.Getenv("SLACK_TEST") != "" {
		if os.Getenv(done) == "" {
			fmt.Println("begins", os.Getpid())
		}
		Take()
		fmt.Println("runs", os.Getpid(), os.Getenv(done) == "", strings.Join(os.Args[1:], " "))
		for _, task := range tasks() {
			fmt.Println("thread", slackOf(task))
		}
		return
	}
	os.Exit(m.Run())
}

// tasks returns the threads of this process.
func tasks() (tasks []string) {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		panic(err)
	}
	for _, entry := range entries {
		tasks = append(tasks, entry.Name())
	}
	return tasks
}

// slackOf returns the slack of a thread in ns.
func slackOf(task string) string {
	text, err := os.ReadFile("/proc/" + task + "/timerslack_ns")
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text))
}

func output(t *testing.T, arguments ...string) []string {
	t.Helper()
	command := exec.Command(os.Args[0], arguments...)
	command.Env = append(os.Environ(), "SLACK_TEST=1")
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

func TestAllThreadsHaveTheSlack(t *testing.T) {
	lines := output(t, "--flag", "a b")
	if len(lines) < 3 {
		t.Fatalf("it said %q", lines)
	}
	pid := strings.TrimPrefix(lines[0], "begins ")
	if want := "runs " + pid + " true --flag a b"; lines[1] != want {
		t.Errorf("it said %q, want %q: the same process, the same arguments, nothing left in the environment", lines[1], want)
	}
	for _, line := range lines[2:] {
		if line != "thread "+strconv.Itoa(int(Time)) && !strings.Contains(line, "permission") && !strings.Contains(line, "not permitted") {
			t.Errorf("%s ns, want %d", line, Time)
		}
	}
}

func TestItIsExecutedAgainOnce(t *testing.T) {
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), "SLACK_TEST=1", done+"=1") // as if that had brought nothing
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if text := string(out); !strings.HasPrefix(text, "runs ") {
		t.Errorf("it said %q", text)
	}
}
