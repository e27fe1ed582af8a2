package agent

// Explain is what tests see of explain.
var Explain = explain
