package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
)

// flyConfig configures the Machines API for local machines whose program only stays.
const flyConfig = `[fly_api]
enabled = true
apps = ["bench"]
[fly_api.images."bench:*"]
command = ["sleep", "600"]
`

// measureFlyAPI measures machines of Fly's API, over processes of this computer: how long it takes from the moment a
// client begins to ask for one until it has heard that the machine is started, when nothing else is to be done; and how
// many are created, waited for, destroyed and seen gone in a second by sixteen clients at once.
func measureFlyAPI(ctx context.Context, b *bench, g *Group) error {
	dir, err := b.place("fly")
	if err != nil {
		return err
	}
	config := filepath.Join(dir, "dayfly.toml")
	if err := os.WriteFile(config, []byte(flyConfig), 0o600); err != nil {
		return fmt.Errorf("writing the configuration: %w", err)
	}
	server, err := b.serveDayfly(ctx, "--config", config)
	if err != nil {
		return err
	}
	defer server.close()
	started50 := g.figure("create to started, p50", "ms").atMost(30)
	started99 := g.figure("create to started, p99", "ms")
	lives := g.figure("machines created, waited for and destroyed", "machines/s").atLeast(50)
	fly := &flyClient{base: "http://" + server.address + "/v1/apps/bench/machines", http: &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: parallel}, Timeout: time.Minute,
	}}
	if _, err := fly.live(ctx); err != nil { // the first one also pays for its supervisor
		return err
	}
	return b.eachRound(ctx, func(int) error {
		var took []time.Duration
		for range b.starts {
			d, err := fly.live(ctx)
			if err != nil {
				return err
			}
			took = append(took, d)
		}
		started50.add(milliseconds(percentile(took, 0.50)))
		started99.add(milliseconds(percentile(took, 0.99)))
		began := time.Now()
		clients, ctx := errgroup.WithContext(ctx)
		clients.SetLimit(parallel)
		for range b.flies {
			clients.Go(func() error {
				_, err := fly.live(ctx)
				return err
			})
		}
		if err := clients.Wait(); err != nil {
			return err
		}
		lives.add(float64(b.flies) / time.Since(began).Seconds())
		return nil
	})
}

// flyClient is a client of the Machines API.
type flyClient struct {
	base string
	http *http.Client
}

// live creates a machine, waits until it is started, destroys it and waits until it is gone. It returns how long the
// first two took.
func (c *flyClient) live(ctx context.Context) (started time.Duration, err error) {
	began := time.Now()
	var machine struct {
		ID string `json:"id"`
	}
	if err := c.call(ctx, http.MethodPost, "", []byte(`{"config":{"image":"bench:1","restart":{"policy":"no"}}}`), &machine); err != nil {
		return 0, err
	}
	path := "/" + machine.ID
	if err := c.call(ctx, http.MethodGet, path+"/wait?state=started", nil, nil); err != nil {
		return 0, err
	}
	started = time.Since(began)
	if err := c.call(ctx, http.MethodDelete, path+"?force=true", nil, nil); err != nil {
		return 0, err
	}
	return started, c.call(ctx, http.MethodGet, path+"/wait?state=destroyed", nil, nil)
}

// call makes a request that must be answered with 200.
func (c *flyClient) call(ctx context.Context, method, path string, body []byte, into any) error {
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	response, err := c.http.Do(r)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: status %d: %s", method, path, response.StatusCode, data)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(data, into)
}
