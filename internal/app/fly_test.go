package app_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/app"
)

// withFly returns a configuration whose jobs run at Fly, and that nothing is wrong with.
func withFly(t *testing.T) *app.Config {
	t.Helper()
	c := app.Default()
	c.DataDir = filepath.Join(t.TempDir(), "data")
	c.Listen = []string{"127.0.0.1:0"}
	c.PublicURL = "https://dayfly.example.com"
	c.AllowOpen = true // what asks for a token is tested elsewhere
	c.Providers.Fly.Enabled = true
	c.Providers.Fly.App = "worker"
	c.Providers.Fly.TokenFile = filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(c.Providers.Fly.TokenFile, []byte("FlyV1 fm2_one\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestWhatFlyNeedsAndIsMissingIsToldWithItsKey(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		spoil func(c *app.Config)
		key   string // "": nothing is wrong
		says  string
	}{
		"nothing is wrong":          {func(*app.Config) {}, "", ""},
		"no app":                    {func(c *app.Config) { c.Providers.Fly.App = "" }, "providers.fly.app", "fly apps create"},
		"an app that is none":       {func(c *app.Config) { c.Providers.Fly.App = "../x" }, "providers.fly.app", "../x"},
		"no token":                  {func(c *app.Config) { c.Providers.Fly.TokenFile = "" }, "providers.fly.token_file", "DAYFLY_PROVIDERS_FLY_TOKEN"},
		"two tokens":                {func(c *app.Config) { c.Providers.Fly.Token = "fo1_secret" }, "providers.fly.token_file", "two tokens"},
		"no public_url":             {func(c *app.Config) { c.PublicURL = "" }, "public_url", "call this server"},
		"a public_url at home":      {func(c *app.Config) { c.PublicURL = "http://127.0.0.1:7700" }, "public_url", "this computer only"},
		"a server_url at home":      {func(c *app.Config) { c.Providers.Fly.ServerURL = "http://127.0.0.1:7700" }, "providers.fly.server_url", "this computer only"},
		"a server_url that is none": {func(c *app.Config) { c.Providers.Fly.ServerURL = "home" }, "providers.fly.server_url", "https://dayfly.example.com"},
		"a server_url alone":        {func(c *app.Config) { c.PublicURL, c.Providers.Fly.ServerURL = "", "https://dayfly.example.com" }, "", ""},
		"an API here":               {func(c *app.Config) { c.PublicURL, c.Providers.Fly.APIURL = "", "http://127.0.0.1:2" }, "", ""},
		"localhost":                 {func(c *app.Config) { c.PublicURL = "http://localhost:7700" }, "public_url", "this computer only"},
		"an API that is none":       {func(c *app.Config) { c.Providers.Fly.APIURL = "api.machines.dev" }, "providers.fly.api_url", "https://api.machines.dev"},
		"an unknown size":           {func(c *app.Config) { c.Providers.Fly.Size = "large" }, "providers.fly.size", "shared-cpu-1x"},
		"an agent that is none":     {func(c *app.Config) { c.Providers.Fly.Agent = "agent" }, "providers.fly.agent", "absolute"},
		"a rate that is none":       {func(c *app.Config) { c.Providers.Fly.RequestsPerSecond = -1 }, "providers.fly.requests_per_second", "-1"},
		"no machines":               {func(c *app.Config) { c.Providers.Fly.MaxMachines = 0 }, "providers.fly.max_machines", "1"},
		"an API and a home here":    {func(c *app.Config) { c.PublicURL, c.Providers.Fly.APIURL = "http://127.0.0.1:1", "http://localhost:2" }, "", ""},
		"not enabled": {func(c *app.Config) {
			c.Providers.Fly = app.Fly{}
			c.PublicURL = ""
		}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := withFly(t)
			x.spoil(c)
			s, err := app.Start(t.Context(), c, nil)
			if x.key == "" {
				if err != nil {
					t.Fatalf("got %v, want nothing to be wrong", err)
				}
				s.Close()
				return
			}
			field, ok := errors.AsType[*fault.FieldError](err)
			if !ok || field.Field != x.key || !strings.Contains(field.Message, x.says) {
				t.Fatalf("got %v, want %s and %q", err, x.key, x.says)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the refusal holds the token: %v", err)
			}
		})
	}
}

func TestACommandThatServesItselfNeedsNoAddressForFly(t *testing.T) {
	t.Parallel()
	c := withFly(t)
	c.PublicURL = ""
	s, err := app.Start(t.Context(), c, &app.StartOptions{Embedded: true})
	if err != nil {
		t.Fatalf("got %v, want it to start: its job may run on this computer", err)
	}
	s.Close()
}

func TestATokenThatCannotBeReadKeepsTheServerFromStarting(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{"nothing": "\n", "two lines": "fo1_secret\nfo1_secret\n", "a program": "\x7fELF\x00secret"} {
		c := withFly(t)
		if err := os.WriteFile(c.Providers.Fly.TokenFile, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := app.Start(t.Context(), c, nil)
		if err == nil || !strings.Contains(err.Error(), "providers.fly.token_file") || strings.Contains(err.Error(), "secret") {
			t.Errorf("a token file with %s: got %v, want the key and not what is in it", name, err)
		}
	}
	c := withFly(t)
	c.Providers.Fly.TokenFile += ".missing"
	if _, err := app.Start(t.Context(), c, nil); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a token file that is missing: got %v, want that said", err)
	}
}

// TestAJobForFlyIsAskedForAtItsAPI starts a server whose API of Fly's has no room, and looks at what the job says of it.
func TestAJobForFlyIsAskedForAtItsAPI(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var tokens []string
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.Method == http.MethodPost {
			tokens = append(tokens, r.Header.Get("Authorization"))
			w.WriteHeader(http.StatusUnprocessableEntity)
			_, _ = w.Write([]byte(`{"error":"could not find a candidate host","status":"insufficient_capacity"}`))
			return
		}
		_, _ = w.Write([]byte("[]"))
	}))
	t.Cleanup(api.Close)
	c := withFly(t)
	c.PublicURL, c.Providers.Fly.APIURL, c.Providers.Fly.Image = "http://127.0.0.1:1", api.URL, "registry.example/worker"
	c.DefaultProvider = "fly"
	client := serve(t, c)
	job, err := client.Submit(t.Context(), &dayfly.JobSpec{Command: []string{"true"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	until(t, "why the job waits names Fly's reason", func() bool {
		why, err := client.Why(t.Context(), job.ID)
		return err == nil && strings.Contains(strings.Join(why.Answers, " "), "could not find a candidate host")
	})
	mu.Lock()
	defer mu.Unlock()
	if tokens[0] != "FlyV1 fm2_one" {
		t.Errorf("the token that was sent: got %q, want the one in the file", tokens[0])
	}
}

// serve starts a server and returns a client of it.
func serve(t *testing.T, c *app.Config) *dayfly.Client {
	t.Helper()
	s, err := app.Start(t.Context(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	client, err := dayfly.NewClient(s.LocalURL(), &dayfly.ClientOptions{Token: s.Token()})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// until waits for a condition.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("waited 20 seconds until %s", what)
		}
		<-tick.C
	}
}
