"""What training can maximise besides the likelihood of the replies: how they rank, and which ones people prefer."""
