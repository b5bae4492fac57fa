package local

// Describe writes the description of a cluster into dir, which holds the directories of its replicas already: those of
// a restored one. Start then resumes it.
func Describe(dir, cluster, group string, o Options) error {
	plan := newPlan(o)
	plan.Cluster, plan.Group = cluster, group
	if err := plan.check(); err != nil {
		return err
	}
	return savePlan(dir, plan)
}
