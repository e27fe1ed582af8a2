package hire_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/hire"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// service returns a service over a cloud, as a server that starts has it.
func service(t *testing.T, p machine.Provider, dir string, room int) *hire.Service {
	t.Helper()
	s, err := hire.New(hire.Options{
		Dir: filepath.Join(dir, "hired"), ProgramDir: filepath.Join(dir, "programs"), Providers: map[string]machine.Provider{"mem": p}, Owner: func() string { return "dayfly-hired-abc" },
		TakeRoom: func(_ string, take func()) bool {
			if room > 0 {
				take()
			}
			return room > 0
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// running runs the service until the test ends, or stop is called.
func running(t *testing.T, s *hire.Service) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- s.Run(ctx) }()
	done := false
	stop = func() {
		if cancel(); !done {
			<-over
			done = true
		}
	}
	t.Cleanup(stop)
	return stop
}

func wanted(name, owner, holder string) *wire.Hire {
	return &wire.Hire{Holder: holder, Spec: machine.Spec{Name: name, Owner: owner, Lifetime: 24 * time.Hour, Command: []string{"stay"}}}
}

func names(list []*machine.Machine) []string {
	all := []string{}
	for _, m := range list {
		all = append(all, m.Name)
	}
	return all
}

func TestAServerThatWasKilledKnowsWhatItHasHiredOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, dir := memmachine.New(nil), t.TempDir()
		defer p.Cloud().Close()
		first := service(t, p, dir, 10)
		stop := running(t, first)
		if _, err := first.Create(t.Context(), "web", "mem", wanted("a", "pool", "h1")); err != nil {
			t.Fatal(err)
		}
		// It is killed in the middle of a create that happens.
		p.Cloud().Fail(memmachine.Create, memmachine.ExecuteThenTimeout).Times(1)
		if _, err := first.Create(t.Context(), "web", "mem", wanted("b", "pool", "h2")); !errors.Is(err, fault.Unavailable) {
			t.Fatalf("Create that times out: got error %v, want fault.Unavailable", err)
		}
		stop()

		second := service(t, p.Cloud().Connect(), dir, 10)
		running(t, second)
		if got := second.Counts()["mem"]; got != 2 {
			t.Errorf("Counts after a start: got %d, want 2", got)
		}
		for range 10 { // h1 is heard of, h2 is not
			list, err := second.List(t.Context(), "web", "mem", "pool", "h1")
			if err != nil || len(list) == 0 {
				t.Fatalf("List: got %v and error %v, want a machine", names(list), err)
			}
			<-time.After(10 * time.Second)
		}
		list, err := second.List(t.Context(), "web", "mem", "pool", "h1")
		if got := names(list); err != nil || len(got) != 1 || got[0] != "a" {
			t.Errorf("List after more than a lease: got %v and error %v, want the machine of who was heard of", got, err)
		}
		<-time.After(3 * time.Minute)
		if all := p.Cloud().Machines(); len(all) != 0 || second.Counts()["mem"] != 0 {
			t.Errorf("got %v and counts %v when nobody is heard of any more, want nothing", names(all), second.Counts())
		}
		if left, err := os.ReadDir(filepath.Join(dir, "hired")); err != nil || len(left) != 0 {
			t.Errorf("got %v and error %v written down, want nothing", left, err)
		}
	})
}

func TestWhatIsNotWrittenDownGoesAfterALease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, dir := memmachine.New(nil), t.TempDir()
		defer p.Cloud().Close()
		stray := &machine.Spec{Name: "stray", Owner: "dayfly-hired-abc", Lifetime: 24 * time.Hour, Command: []string{"stay"}}
		if _, err := p.Create(t.Context(), stray); err != nil {
			t.Fatal(err)
		}
		torn := filepath.Join(dir, "hired", "mem.torn")
		err := os.Mkdir(filepath.Dir(torn), 0o700)
		if err == nil {
			err = os.WriteFile(torn, []byte(`{"provider":`), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		running(t, service(t, p, dir, 10))
		<-time.After(30 * time.Second)
		if all := p.Cloud().Machines(); len(all) != 1 {
			t.Errorf("got %v within the time of a lease, want the stray", names(all))
		}
		<-time.After(2 * time.Minute)
		if all := p.Cloud().Machines(); len(all) != 0 {
			t.Errorf("got %v after a lease, want nothing", names(all))
		}
	})
}

func TestARefusedCreateIsNotCountedAndANameIsOneOwners(t *testing.T) {
	t.Parallel()
	p := memmachine.New(nil)
	t.Cleanup(p.Cloud().Close)
	s := service(t, p, t.TempDir(), 10)
	p.Cloud().Fail(memmachine.Create, memmachine.Refuse(fault.Exhausted)).Times(1)
	if _, err := s.Create(t.Context(), "web", "mem", wanted("a", "pool", "h")); !errors.Is(err, fault.Exhausted) || s.Counts()["mem"] != 0 {
		t.Errorf("Create that is refused: got error %v and counts %v, want fault.Exhausted and none", err, s.Counts())
	}
	if _, err := s.Create(t.Context(), "web", "mem", wanted("a", "pool", "h")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(t.Context(), "web", "mem", wanted("a", "another", "h")); !errors.Is(err, fault.Conflict) {
		t.Errorf("Create of another owner's name: got error %v, want fault.Conflict", err)
	}
	full := service(t, p, t.TempDir(), 0)
	if _, err := full.Create(t.Context(), "web", "mem", wanted("b", "pool", "h")); !errors.Is(err, fault.Exhausted) || s.Counts()["mem"] != 1 {
		t.Errorf("Create without room: got error %v, want fault.Exhausted", err)
	}
	if len(p.Cloud().Machines()) != 1 {
		t.Errorf("got %v, want the one machine", names(p.Cloud().Machines()))
	}
}

func TestWhatOneTenantHiresDoesNotExistForAnother(t *testing.T) {
	t.Parallel()
	p := memmachine.New(nil)
	t.Cleanup(p.Cloud().Close)
	s := service(t, p, t.TempDir(), 10)
	m, err := s.Create(t.Context(), "web", "mem", wanted("a", "pool", "h"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), "mobile", "mem", m.ID); !errors.Is(err, fault.NotFound) {
		t.Errorf("Get of another's machine: got error %v, want fault.NotFound", err)
	}
	if err := s.Logs(t.Context(), "mobile", "mem", m.ID, false, nil, nil); !errors.Is(err, fault.NotFound) {
		t.Errorf("Logs of another's machine: got error %v, want fault.NotFound", err)
	}
	if list, err := s.List(t.Context(), "mobile", "mem", "pool", "h"); err != nil || len(list) != 0 {
		t.Errorf("List by the name of another's pool: got %v and error %v, want none", names(list), err)
	}
	if err := s.Destroy(t.Context(), "mobile", "mem", m.ID); err != nil {
		t.Errorf("Destroy of another's machine: got error %v, want nil, as for one that never was", err)
	}
	if _, err := s.Create(t.Context(), "mobile", "mem", wanted("a", "pool", "h")); !errors.Is(err, fault.Conflict) {
		t.Errorf("Create by the name of another's machine: got error %v, want fault.Conflict", err)
	}
	// Several processes with one token share what it hires.
	if again, err := s.Create(t.Context(), "web", "mem", wanted("a", "pool", "another holder")); err != nil || again.ID != m.ID {
		t.Errorf("Create by another process of the same tenant: got %v and error %v, want the machine", again, err)
	}
	if err := s.Destroy(t.Context(), "web", "mem", m.ID); err != nil || len(p.Cloud().Machines()) != 0 {
		t.Errorf("Destroy of one's own: got %v left and error %v, want nothing", names(p.Cloud().Machines()), err)
	}
}

func TestNobodyRenewsTheLeaseOfAnothersHolder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := memmachine.New(nil)
		defer p.Cloud().Close()
		s := service(t, p, t.TempDir(), 10)
		running(t, s)
		if _, err := s.Create(t.Context(), "web", "mem", wanted("a", "pool", "h")); err != nil {
			t.Fatal(err)
		}
		for range 12 {
			if _, err := s.List(t.Context(), "mobile", "mem", "pool", "h"); err != nil {
				t.Fatal(err)
			}
			<-time.After(10 * time.Second)
		}
		if all := p.Cloud().Machines(); len(all) != 0 {
			t.Errorf("got %v after two minutes in which only somebody else has asked, want nothing", names(all))
		}
	})
}
