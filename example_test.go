package dayfly_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
)

// Run a command and print what it prints, as it comes.
func ExampleClient_Submit() {
	ctx := context.Background()
	c, err := dayfly.NewClient("http://127.0.0.1:7700", nil)
	if err != nil {
		log.Fatal(err)
	}
	job, err := c.Submit(ctx, &dayfly.JobSpec{Command: []string{"ffmpeg", "-version"}}, nil)
	if err != nil {
		log.Fatal(err)
	}
	for record, err := range c.Logs(ctx, job.ID, &dayfly.LogOptions{Follow: true}) {
		if err != nil {
			log.Fatal(err)
		}
		os.Stdout.Write(record.Data)
	}
	job, err = c.Wait(ctx, job.ID)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(job.State)
}

// Send a file in, and get one back.
func ExampleClient_Upload() {
	ctx := context.Background()
	c, err := dayfly.NewClient("http://127.0.0.1:7700", nil)
	if err != nil {
		log.Fatal(err)
	}
	job, err := c.Submit(ctx, &dayfly.JobSpec{
		Command: []string{"ffmpeg", "-i", "in.wav", "-b:a", "192k", "out.mp3"},
		Inputs:  []dayfly.InputSpec{{Name: "in.wav"}},
		Outputs: []string{"out.mp3"},
	}, nil)
	if err != nil {
		log.Fatal(err)
	}

	wav, err := os.Open("song.wav")
	if err != nil {
		log.Fatal(err)
	}
	defer wav.Close()
	info, err := wav.Stat()
	if err != nil {
		log.Fatal(err)
	}
	if err := c.Upload(ctx, *job.Inputs[0].Upload, wav, info.Size()); err != nil {
		log.Fatal(err)
	}
	if _, err := c.Start(ctx, job.ID); err != nil {
		log.Fatal(err)
	}

	job, err = c.Wait(ctx, job.ID)
	if err != nil {
		log.Fatal(err)
	}
	if job.State != dayfly.Succeeded {
		log.Fatal(job.Message)
	}
	mp3, err := c.Download(ctx, job.Artifacts[0])
	if err != nil {
		log.Fatal(err)
	}
	defer mp3.Close()
	out, err := os.Create("song.mp3")
	if err != nil {
		log.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, mp3); err != nil { // fails if what arrives is not what was stored
		log.Fatal(err)
	}
}

// Decide by the kind of an error; show its sentence to a person.
func ExampleClient_Job() {
	c, err := dayfly.NewClient("http://127.0.0.1:7700", &dayfly.ClientOptions{Token: os.Getenv("DAYFLY_TOKEN")})
	if err != nil {
		log.Fatal(err)
	}
	_, err = c.Job(context.Background(), "job_that_is_not")
	switch {
	case errors.Is(err, fault.NotFound):
		fmt.Println("there is no such job")
	case errors.Is(err, fault.Unauthenticated):
		fmt.Println("set DAYFLY_TOKEN")
	case err != nil:
		log.Fatal(err)
	}
}

// Look at the last ten failures of one kind of job.
func ExampleClient_Jobs() {
	ctx := context.Background()
	c, err := dayfly.NewClient("http://127.0.0.1:7700", nil)
	if err != nil {
		log.Fatal(err)
	}
	query := &dayfly.Query{States: []dayfly.State{dayfly.Failed}, Labels: map[string]string{"kind": "transcode"}, Limit: 10}
	for job, err := range c.Jobs(ctx, query) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(job.ID, job.Reason, job.Message)
	}
}
