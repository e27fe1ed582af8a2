package dayfly

// Why explains why a job is where it is.
type Why struct {
	Job     string   `json:"job"`
	State   State    `json:"state"`
	Answers []string `json:"answers" doc:"Sentences, the most important first."`
	Next    string   `json:"next,omitempty" doc:"What happens next, or what you can do."`
}
