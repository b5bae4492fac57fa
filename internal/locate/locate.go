package locate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// Scheme begins a name that stands for several addresses.
	Scheme = "srv://"
	// maxFound bounds the addresses of one name: more than that many configuration masters there are not.
	maxFound = 16
	// patience bounds one look-up.
	patience = 3 * time.Second
)

// Several reports whether a name stands for several addresses, which have to be looked up.
func Several(name string) bool { return strings.HasPrefix(name, Scheme) }

// Check returns what is wrong with a name, or nil. It looks nothing up.
func Check(name string) error {
	if record, several := strings.CutPrefix(name, Scheme); several {
		labels := strings.Split(strings.TrimSuffix(record, "."), ".")
		if len(labels) < 3 || !strings.HasPrefix(labels[0], "_") || !strings.HasPrefix(labels[1], "_") || slices.Contains(labels, "") || len(record) > 253 || strings.ContainsAny(record, "/:? ") {
			return fmt.Errorf("%q: use srv://_SERVICE._tcp.DOMAIN, such as srv://_lockstep._tcp.example.org", name)
		}
		return nil
	}
	host, port, err := net.SplitHostPort(name)
	if err != nil || host == "" || port == "" {
		return fmt.Errorf("%q: use HOST:PORT, or srv://_SERVICE._tcp.DOMAIN for an SRV record", name)
	}
	return nil
}

// Addresses returns where the names lead now, as HOST:PORT, in the order of the names and of the records' priorities, each once. A nil
// resolver is that of the system. Names that cannot be looked up are left out while others lead somewhere; if none does, the error says
// why for each.
func Addresses(ctx context.Context, resolver *net.Resolver, names []string) ([]string, error) {
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	var found []string
	var problems []error
	for _, name := range names {
		record, several := strings.CutPrefix(name, Scheme)
		if !several {
			found = append(found, name)
			continue
		}
		addrs, err := lookUp(ctx, resolver, record)
		if err != nil {
			problems = append(problems, fmt.Errorf("look up %s: %w", name, err))
		}
		found = append(found, addrs...)
	}
	seen := make(map[string]bool)
	found = slices.DeleteFunc(found, func(addr string) bool {
		twice := seen[addr]
		seen[addr] = true
		return twice
	})
	if len(found) == 0 {
		return nil, cmp.Or(errors.Join(problems...), errors.New("no address of a configuration master"))
	}
	return found, nil
}

func lookUp(ctx context.Context, resolver *net.Resolver, record string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, records, err := resolver.LookupSRV(ctx, "", "", strings.TrimSuffix(record, ".")+".")
	if err != nil && len(records) == 0 { // records with a target that is no name are left out, and told as an error
		return nil, fmt.Errorf("%w: `dig SRV %s` shows what DNS says; HOST:PORT,… does without it", err, record)
	}
	var addrs []string
	for _, one := range records {
		host := strings.TrimSuffix(one.Target, ".")
		if host == "" || one.Port == 0 { // "." says that the service is not there
			continue
		}
		addrs = append(addrs, net.JoinHostPort(host, strconv.Itoa(int(one.Port))))
	}
	if len(addrs) == 0 {
		return nil, errors.New("the record names no host: the service is not offered there")
	}
	return addrs[:min(len(addrs), maxFound)], nil
}
