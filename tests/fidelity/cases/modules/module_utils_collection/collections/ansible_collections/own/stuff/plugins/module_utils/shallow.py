def shallow():
    return "shallow"
