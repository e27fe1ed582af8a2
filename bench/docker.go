package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/moby/moby/client"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/dockertest"
)

// benchImage is what containers are made of, and benchProgram all there is in it.
const (
	benchImage   = "dayfly-bench/now:1"
	benchProgram = "/now"
)

// measureDocker measures what measureStart does, for jobs in containers, and how long a container is there after its job's
// end. The baseline is docker run of the same image, with the engine's own program. The engine is one of its own.
func measureDocker(ctx context.Context, b *bench, g *Group) (err error) {
	engine, err := dockertest.Open()
	if err != nil {
		g.Skipped = "no container engine could be started: " + err.Error()
		return nil
	}
	defer func() {
		if closed := engine.Close(); err == nil {
			err = closed
		}
	}()
	dir, err := b.place("docker")
	if err != nil {
		return err
	}
	program := filepath.Join(dir, "now")
	if err := build(ctx, program, "./bench/now"); err != nil {
		return err
	}
	code, err := os.ReadFile(program)
	if err != nil {
		return fmt.Errorf("reading a program: %w", err)
	}
	if err := engine.MakeImageOf(benchImage, map[string][]byte{benchProgram: code}); err != nil {
		return err
	}
	config := filepath.Join(dir, "dayfly.toml")
	text := fmt.Sprintf("[providers.docker]\nenabled = true\nhost = %q\nnetwork = %q\n", engine.Host, engine.Network)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return fmt.Errorf("writing the configuration: %w", err)
	}
	server, err := b.serveDayfly(ctx, "--config", config)
	if err != nil {
		return err
	}
	defer server.close()
	dayfly, err := server.client()
	if err != nil {
		return err
	}
	running := g.figure("submit to code running in a container, p50", "ms").against("docker run of the same image").atMostOf(1.3, 0)
	done := g.figure("submit to done, p50", "ms").against("docker run of the same image")
	gone := g.figure("container gone after the job's end, p50", "ms").atMost(2000)

	once := func() (begun, done, gone time.Duration, err error) { return startInContainer(ctx, dayfly, engine) }
	if _, _, _, err := once(); err != nil { // the first of an image puts the agent into it
		return err
	}
	return b.eachRound(ctx, func(int) error {
		var subject, bare [3][]time.Duration
		for range max(b.starts/20, 2) {
			begun, ended, err := startByDockerRun(ctx, engine)
			if err != nil {
				return err
			}
			bare[0], bare[1] = append(bare[0], begun), append(bare[1], ended)
			begun, ended, left, err := once()
			if err != nil {
				return err
			}
			subject[0], subject[1], subject[2] = append(subject[0], begun), append(subject[1], ended), append(subject[2], left)
		}
		running.add(milliseconds(percentile(subject[0], 0.50)), milliseconds(percentile(bare[0], 0.50)))
		done.add(milliseconds(percentile(subject[1], 0.50)), milliseconds(percentile(bare[1], 0.50)))
		gone.add(milliseconds(percentile(subject[2], 0.50)))
		return nil
	})
}

// startInContainer runs the program as a job in a container, and waits until the container is gone.
func startInContainer(ctx context.Context, c *dayfly.Client, engine *dockertest.Engine) (begun, done, gone time.Duration, err error) {
	began := time.Now()
	begun, done, err = startJob(ctx, c, &dayfly.JobSpec{Command: []string{benchProgram}, Provider: "docker", Image: benchImage})
	if err != nil {
		return 0, 0, 0, err
	}
	for {
		list, err := engine.Client.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: make(client.Filters).Add("label", "run.dayfly.name")})
		if err != nil {
			return 0, 0, 0, fmt.Errorf("listing the containers: %w", err)
		}
		if len(list.Items) == 0 {
			return begun, done, time.Since(began) - done, nil
		}
		if err := pause(ctx, 2*time.Millisecond); err != nil {
			return 0, 0, 0, err
		}
	}
}

// startByDockerRun does the same without Dayfly.
func startByDockerRun(ctx context.Context, engine *dockertest.Engine) (begun, done time.Duration, err error) {
	began := time.Now()
	printed, err := exec.CommandContext(ctx, "docker", "--host", engine.Host, "run", "--rm", "--network", engine.Network, benchImage, benchProgram).Output()
	if err != nil {
		return 0, 0, fmt.Errorf("docker run: %w", err)
	}
	done = time.Since(began)
	begun, err = since(began, printed)
	return begun, done, err
}
